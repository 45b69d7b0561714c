// Every scalar in a record by its dotted path, some in one row: group → JSON text of a list [path, value, path, value ...],
// each path without the key. The entries of a list have the list's path; an empty object or list is null. The group of a
// path without a dot is the path; of others it is "key." and the name's first letter, or where that begins with "lib" the
// first four; what is not ASCII is "~" there.
function (doc) {
  var reserved = ['system_name', 'created_at', 'updated_at', 'last_error', 'vogeler'];
  var groups = Object.create(null);  // a key may be "constructor"
  function ascii(letter) {
    return letter < '\x80' ? letter : '~';
  }
  function put(path, value) {
    var start = path.indexOf('.') + 1, name = path.slice(start), group = path;
    if (start > 0) {
      group = path.slice(0, start);
      if (name.slice(0, 3) === 'lib') {
        group += 'lib' + ascii(name.charAt(3));
      } else {
        group += ascii(name.charAt(0));
      }
    }
    (groups[group] = groups[group] || []).push(start > 0 ? name : '', value);
  }
  function walk(path, value) {
    var names, i;
    if (value === null || typeof value !== 'object') {
      put(path, value);
    } else if (Array.isArray(value)) {
      for (i = 0; i < value.length; i++) {
        walk(path, value[i]);
      }
      if (value.length === 0) {
        put(path, null);
      }
    } else {
      names = Object.keys(value);
      for (i = 0; i < names.length; i++) {
        walk(path + '.' + names[i], value[names[i]]);
      }
      if (names.length === 0) {
        put(path, null);
      }
    }
  }
  Object.keys(doc).forEach(function (key) {
    if (key.charAt(0) !== '_' && reserved.indexOf(key) < 0) {
      walk(key, doc[key]);
    }
  });
  Object.keys(groups).forEach(function (group) {
    emit(group, JSON.stringify(groups[group]));
  });
}
