// Where a package is installed, by version: [package, version] → node.
// The keys packages, rpms and dpkg hold {name: version}, or a list of
// "name-version", "name-version-release.arch", "name version" or "name=version".
function (doc) {
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
          emit([parts[1], parts[2]], doc._id);
        }
      });
    } else if (found && typeof found === 'object') {
      Object.keys(found).forEach(function (name) {
        if (found[name] === null || typeof found[name] !== 'object') {
          emit([name, found[name]], doc._id);
        }
      });
    }
  });
}
