// What the page asks of the server: one request at a time, in the order of the person's actions.

const KEPT = "review-token";
let waiting = Promise.resolve();

// The secret comes behind the # of the address. It is kept for this tab, so that it can be loaded again.
function secret() {
  const given = location.hash.slice(1);
  if (given.length > 20) {
    sessionStorage.setItem(KEPT, given);
    history.replaceState(null, "", "/");
  }
  return sessionStorage.getItem(KEPT) ?? "";
}

const token = secret();

// An answer that is no success. lost: there was none at all, so nobody knows whether the action was saved.
export class Problem extends Error {
  constructor(message, lost) {
    super(message);
    this.lost = lost;
  }
}

async function ask(path, action) {
  const how = { headers: { "X-Review-Token": token }, cache: "no-store" };
  if (action) {
    how.method = "POST";
    how.body = JSON.stringify(action);
    how.headers["Content-Type"] = "application/json";
  }
  let answer;
  let content;
  try {
    answer = await fetch(path, how);
    content = await answer.json(); // the server may end in the middle of it
  } catch {
    throw new Problem("The server does not answer. What was saved is on disk; start review.py again with the same command and open " +
      "the address that it prints.", true);
  }
  if (!answer.ok) throw new Problem(content.problem ?? `The server said ${answer.status}.`, false);
  return content;
}

export const queue = () => ask("/api/queue");
export const sentence = (index) => ask(`/api/sentences/${index}`);
export const act = (index, action) => ask(`/api/sentences/${index}`, action);

// Do one thing after the other: a key pressed while an answer is under way acts on what that answer brings.
export function inOrder(work) {
  waiting = waiting.then(work, work);
  return waiting;
}
