// What changed on the whole fleet, by the server's clock.
function (doc) {
  emit([doc.stored_at || doc.changed_at, doc.seq, doc._id], {node: doc.node, key: doc.key});
}
