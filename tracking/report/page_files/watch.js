// Where the page is served and watches its runs: takes the newer version of itself, and keeps what is chosen.

const WATCH_MS = 2000;

function watch() {
  if (document.documentElement.dataset.watched !== "") setTimeout(look, WATCH_MS);
}

async function look() {
  const root = document.documentElement;
  try {
    if (!document.hidden) {
      const version = await answer("version");
      if (version !== root.dataset.watched) await take(new DOMParser().parseFromString(await answer("."), "text/html"));
    }
    root.classList.remove("lost");
  } catch (error) {
    root.classList.add("lost"); // the server has ended; what is here stays
  }
  setTimeout(look, WATCH_MS);
}

async function answer(name) {
  const response = await fetch(name, { cache: "no-store" });
  if (!response.ok) throw new Error(`${response.status} for ${name}`);
  return response.text();
}

async function take(newer) {
  await load(newer);
  const open = document.querySelector("#figures > details").open;
  document.querySelector("main").replaceWith(newer.querySelector("main"));
  document.querySelector("#figures > details").open = open;
  document.documentElement.dataset.watched = newer.documentElement.dataset.watched;
  show();
}
