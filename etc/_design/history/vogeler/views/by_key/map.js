// The history of a key of a node by the server's clock; the key is null where the node was forgotten.
function (doc) {
  emit([doc.node, doc.key, doc.stored_at || doc.changed_at, doc.seq, doc._id], {rev: doc._rev, late: doc.late === true});
}
