// The list of nodes, and when each key was last checked. A check that found its plugin unavailable there is no problem.
function (doc) {
  var agent = doc.agent || {};
  var checks = doc.keys || {};
  var checked = {};
  Object.keys(checks).forEach(function (key) {
    if (checks[key].checked_at) {
      checked[key] = checks[key].checked_at;
    }
  });
  emit(doc._id, {
    heard_at: doc.heard_at || null,
    version: agent.version || null,
    started_at: agent.started_at || null,
    groups: agent.groups || [],
    problems: Object.keys(checks).filter(function (key) {
      return checks[key].status !== 'ok' && checks[key].status !== 'unavailable';
    }).sort(),
    checked: checked
  });
}
