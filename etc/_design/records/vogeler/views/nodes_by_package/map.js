// Where a package is installed, by version: [package, version] → node, once a node.
// The keys packages, rpms and dpkg hold {name: version}, or a list of
// "name-version", "name-version-release.arch", "name version" or "name=version".
function (doc) {
  var seen = {};
  function found_one(name, version) {
    var key = JSON.stringify([name, version]);
    if (!seen[key]) {
      seen[key] = true;
      emit([name, version], doc._id);
    }
  }
  function split(line) {
    return /^([^\s=]+)[\s=]+(.*\S)\s*$/.exec(line) ||
      /^(.+)-(\d[^-]*-[^-]+)$/.exec(line) ||
      /^(.+)-(\d[^-]*)$/.exec(line) ||
      [line, line, ''];
  }
  ['packages', 'rpms', 'dpkg'].forEach(function (key) {
    var found = doc[key];
    if (Array.isArray(found)) {
      found.forEach(function (item) {
        if (typeof item === 'string') {
          var parts = split(item.trim());
          found_one(parts[1], parts[2]);
        }
      });
    } else if (found && typeof found === 'object') {
      Object.keys(found).forEach(function (name) {
        if (found[name] === null || typeof found[name] !== 'object') {
          found_one(name, found[name]);
        }
      });
    }
  });
}
