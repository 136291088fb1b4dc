// Requests to the server, all with the token; a refusal becomes an Error with the server's sentence.

const KEY = `drgn-token-${location.port}`;
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname); // out of the address bar and the history
}

export async function ask(path, { method = "GET", json, body } = {}) {
  const headers = { "X-Drgn-Token": sessionStorage.getItem(KEY) ?? "" };
  if (json !== undefined) {
    body = JSON.stringify(json);
    method = method === "GET" ? "POST" : method;
  }
  let answer;
  try {
    answer = await fetch(`/api/${path}`, { method, headers, body });
  } catch {
    throw new Error("The server does not answer. Is drgn explore still running?");
  }
  if (!answer.ok) {
    let sentence = `The server answered ${answer.status}.`;
    try { sentence = (await answer.json()).error ?? sentence; } catch { /* no JSON */ }
    throw new Error(sentence);
  }
  return answer;
}

export const json = async (path, options) => (await ask(path, options)).json();
export const floats = async (path) => new Float32Array(await (await ask(path)).arrayBuffer());
export const rows = async (path, options) => new Uint32Array(await (await ask(path, options)).arrayBuffer());
export const bytesOf = (numbers) => Uint32Array.from(numbers).buffer;
export const fileUrl = (name) => `file/${name.split("/").map(encodeURIComponent).join("/")}`;

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export const saveFile = async (name) => save(await (await ask(fileUrl(name))).blob(), name.split("/").pop());
