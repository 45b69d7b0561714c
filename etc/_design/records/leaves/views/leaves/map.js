// Every scalar in a record by its dotted path: path → value. The entries of a list have the list's path;
// an empty object or list is null.
function (doc) {
  function walk(path, value) {
    var names, i;
    if (value === null || typeof value !== 'object') {
      emit(path, value);
    } else if (Array.isArray(value)) {
      for (i = 0; i < value.length; i++) {
        walk(path, value[i]);
      }
      if (value.length === 0) {
        emit(path, null);
      }
    } else {
      names = Object.keys(value);
      for (i = 0; i < names.length; i++) {
        walk(path + '.' + names[i], value[names[i]]);
      }
      if (names.length === 0) {
        emit(path, null);
      }
    }
  }
  var reserved = ['system_name', 'created_at', 'updated_at', 'last_error', 'vogeler'];
  Object.keys(doc).forEach(function (key) {
    if (key.charAt(0) !== '_' && reserved.indexOf(key) < 0) {
      walk(key, doc[key]);
    }
  });
}
