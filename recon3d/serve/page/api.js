/* The server's API, as far as the page needs it. */

const API = "/api/v1";

/** What the server says, or an Error with its reason in one line. */
async function ask(path, method = "GET") {
  let response;
  try {
    response = await fetch(API + path, { method });
  } catch {
    throw new Error("The server does not answer. Is recon3d serve still running?");
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? `The server answered with status ${response.status}.`);
  return body;
}

export const version = () => ask("/version");
export const health = () => ask("/health");
export const jobs = () => ask("/jobs?limit=100");
export const cancel = (id) => ask(`/jobs/${id}/cancel`, "POST");
export const remove = (id) => ask(`/jobs/${id}`, "DELETE");
export const fileAddress = (id, name) => `${API}/jobs/${id}/files/${encodeURIComponent(name)}`;
export const archiveAddress = (id) => `${API}/jobs/${id}/archive`;

/** Send one file; `progress` is told the share that has gone. The request can be aborted. */
export function send(file, options, progress) {
  const form = new FormData();
  for (const [name, value] of options) form.append(name, value);
  form.append("files", file);
  const request = new XMLHttpRequest();
  const answered = new Promise((resolve, reject) => {
    request.open("POST", `${API}/jobs`);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => progress(event.total ? event.loaded / event.total : 0));
    request.addEventListener("load", () => {
      if (request.status === 201) resolve(request.response.jobs[0]);
      else reject(new Error(request.response?.error ?? `The server answered with status ${request.status}.`));
    });
    request.addEventListener("error", () => reject(new Error(`${file.name}: the upload was broken off.`)));
    request.addEventListener("abort", () => reject(new Error("")));
    request.send(form);
  });
  return { answered, abort: () => request.abort() };
}
