// The list of nodes: of each status document what the listings show, whatever else somebody wrote there by hand.
function (doc) {
  function object(value) {
    return value !== null && typeof value === 'object' && !Array.isArray(value) ? value : {};
  }
  var agent = object(doc.agent);
  var checks = object(doc.keys);
  var plugins = Array.isArray(agent.plugins) ? agent.plugins : [];
  var keys = {};
  Object.keys(checks).forEach(function (key) {
    var check = checks[key];
    if (check === object(check)) {
      keys[key] = {checked_at: check.checked_at, status: check.status};
    }
  });
  emit(doc._id, {
    heard_at: doc.heard_at,
    agent: {
      version: agent.version,
      started_at: agent.started_at,
      groups: agent.groups,
      user: agent.user,
      plugins: plugins.filter(function (plugin) {
        return object(plugin).interval_s;
      }).map(function (plugin) {
        return {key: plugin.key, interval_s: plugin.interval_s};
      })
    },
    keys: keys
  });
}
