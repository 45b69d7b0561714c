// Every record by name: how many there are, and when each last changed.
function (doc) {
  emit(doc.system_name || doc._id, doc.updated_at || null);
}
