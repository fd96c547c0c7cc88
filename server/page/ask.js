/* Questions to the service this page came from. */

/* What the service says is wrong (RFC 9457): errors have the JSON pointer of the value at fault. */
export class Problem extends Error {
  constructor({ title, detail, errors = [] }) {
    super(`${title}: ${detail}`);
    this.errors = errors;
  }
}

/* Nobody answered, or somebody in between, in words of their own. */
const unreached = () => new Problem({ title: "No answer", detail: "the service cannot be reached" });

async function ask(path, options) {
  let reply, value;
  try {
    reply = await fetch(path, options);
    value = await reply.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : unreached();
  }
  if (!reply.ok) throw new Problem(value);
  return value;
}

export const get = (path, signal) => ask(path, { signal });

export const post = (path, body, signal) =>
  ask(path, { signal, method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/* Runs tasks of which only the latest counts: beginning one aborts the one before, which gives undefined. */
export function latest() {
  let running = new AbortController();
  return async (task) => {
    running.abort();
    running = new AbortController();
    try {
      return await task(running.signal);
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      throw error;
    }
  };
}
