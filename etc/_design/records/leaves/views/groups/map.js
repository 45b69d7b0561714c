// Every scalar in a record by its dotted path, with those that begin alike in one row: group → JSON text of a list
// [rest of the path, value, rest of the path, value ...]. The entries of a list have the list's path; an empty object
// or list is null. Of a path "key.name" the group is "key.n"; of "key.libname" it is "key.libn", as there are so many.
function (doc) {
  var reserved = ['system_name', 'created_at', 'updated_at', 'last_error', 'vogeler'], groups = {};
  function put(path, value) {
    var name = path.indexOf('.') + 1, end = name > 0 ? name + 1 : path.length, group;
    if (name > 0 && path.slice(name, name + 3) === 'lib') {
      end = name + 4;
    }
    if (/[\uD800-\uDBFF]/.test(path.charAt(end - 1))) {
      end += 1;  // a character of two units
    }
    group = path.slice(0, end);
    (groups[group] = groups[group] || []).push(path.slice(end), value);
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
