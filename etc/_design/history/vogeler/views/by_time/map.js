// What changed on the whole fleet, by the nodes' clocks.
function (doc) {
  emit([doc.changed_at, doc._id], {node: doc.node, key: doc.key});
}
