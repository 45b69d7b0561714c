// The history of a node by its clock. The id makes every key different, so that pages can follow each other.
function (doc) {
  emit([doc.node, doc.changed_at, doc._id], doc.key);
}
