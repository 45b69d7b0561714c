// Which nodes have a fact: [key, name, value] → node, of every key that holds an object.
function (doc) {
  Object.keys(doc).forEach(function (key) {
    var facts = doc[key];
    if (key === 'vogeler' || key.charAt(0) === '_' || !facts || typeof facts !== 'object' || Array.isArray(facts)) {
      return;
    }
    Object.keys(facts).forEach(function (name) {
      if (facts[name] === null || typeof facts[name] !== 'object') {
        emit([key, name, facts[name]], doc._id);
      }
    });
  });
}
