// The history of a node by the server's clock. The id makes every key different, so that pages can follow each other.
function (doc) {
  emit([doc.node, doc.stored_at || doc.changed_at, doc.seq, doc._id], doc.key);
}
