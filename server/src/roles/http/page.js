"use strict";
const INTERVAL = 2000;
// A PC that was not heard of for this long is shown pale: it is off, or runs its system.
const AWAY = 120;
const STAGES = {
  address: "has an address", loader: "loading iPXE", kernel: "loading Linux",
  catalog: "reading catalog", menu: "at the menu", downloading: "downloading",
  verifying: "verifying", starting: "started its system", problem: "problem",
};
const ROLES = { dhcp: "DHCP", tftp: "TFTP", http: "HTTP", seed: "Seed" };
const KIND = { downloading: "busy", verifying: "busy", starting: "done", problem: "wrong" };

const find = (id) => document.getElementById(id);

// Everything that comes from the server, and so perhaps from a PC, becomes text here.
function make(tag, kind, ...content) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...content.filter((part) => part !== null));
  return element;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit < 2 || bytes >= 99.5 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

function span(seconds) {
  const plural = (count, unit) => `${count} ${unit}${count === 1 ? "" : "s"}`;
  if (seconds < 60) return plural(Math.max(0, Math.round(seconds)), "second");
  if (seconds < 3600) return plural(Math.round(seconds / 60), "minute");
  if (seconds < 172800) return plural(Math.round(seconds / 3600), "hour");
  return plural(Math.round(seconds / 86400), "day");
}

const ago = (seconds) => (seconds < 5 ? "now" : `${span(seconds)} ago`);
const PCs = (count) => (count === 1 ? "1 PC" : `${count} PCs`);

// Bars are kept from one fetch to the next and set when they are in the page, so that they move
// instead of jumping.
const bars = new Map();
function bar(key, fraction) {
  const scale = `scaleX(${Math.min(1, Math.max(0, fraction))})`;
  const known = bars.get(key);
  const track = known ?? make("div", "bar", make("i"));
  const move = () => { track.firstChild.style.transform = scale; };
  if (known) requestAnimationFrame(() => requestAnimationFrame(move));
  else move();
  bars.set(key, track);
  return track;
}

function speedOf(node) {
  const from = `${size(node.speed)}/s from ${node.peers} peer${node.peers === 1 ? "" : "s"}`;
  return node.speed > 0 ? `${from}, ${span((node.total - node.done) / node.speed)} left` : from;
}

function nodeCard(node, names, now) {
  const silent = now - node.seen;
  const kind = KIND[node.stage] ?? "";
  const system = node.system ? (names.get(node.system) ?? node.system) : null;
  const isBusy = node.stage === "downloading" || node.stage === "verifying";
  const card = make("article", `node ${kind}${silent > AWAY ? " away" : ""}`,
    make("div", "top",
      make("span", "name", node.name ?? node.ip ?? node.mac),
      make("span", "stage", STAGES[node.stage] ?? node.stage)),
    make("div", "soft", [node.ip, node.mac, node.firmware]
      .filter((part) => part && part !== (node.name ?? node.ip ?? node.mac)).join(" · ")));
  if (isBusy && node.total > 0) {
    const fraction = node.done / node.total;
    card.append(bar(node.mac, fraction), make("div", "top",
      make("span", "words", system ?? ""),
      make("span", "words", `${Math.floor(fraction * 100)} %`)));
    if (node.stage === "downloading") card.append(make("div", "soft", speedOf(node)));
  } else if (node.stage === "problem" && node.problem) {
    card.append(make("div", "words", node.problem));
  } else {
    card.append(make("div", "soft", `${system ? `${system} · ` : ""}seen ${ago(silent)}`));
  }
  return card;
}

function systemCard(system, users) {
  return make("article", "system",
    make("div", "top", make("span", "name", system.name), make("span", "stage", size(system.total))),
    make("div", "soft", `${system.id} · ${users === 0 ? "on no PC" : `on ${PCs(users)}`}`),
    make("div", "soft", `sent ${size(system.uploaded)} to the room · ${system.peers} connected now`));
}

function figure(label, value) {
  return make("div", null, make("dt", null, label), make("dd", null, value));
}

function show(status) {
  const now = status.now;
  document.title = `${status.lab} · BootTorrent`;
  find("lab").textContent = status.lab;
  find("since").textContent = `BootTorrent, running for ${span(now - status.started)}`;
  find("roles").replaceChildren(...status.roles.map((role) => {
    const item = make("li", role.is_up ? "role" : "role down",
      `${ROLES[role.name] ?? role.name}${role.is_up ? "" : " is down"}`);
    item.title = role.detail;
    return item;
  }));
  const active = status.nodes.filter((node) => now - node.seen <= AWAY);
  const busy = active.filter((node) => node.stage === "downloading");
  const speed = busy.reduce((sum, node) => sum + node.speed, 0);
  const sent = status.systems.reduce((sum, system) => sum + system.uploaded, 0);
  find("numbers").replaceChildren(
    figure("PCs seen in the last two minutes", String(active.length)),
    figure("downloading now", String(busy.length)),
    figure("arriving in the room", `${size(speed)}/s`),
    figure("sent by this server", size(sent)));
  find("refused").hidden = status.edit_refused === null;
  find("refused").textContent = `The last edit is not live; the catalog before it still is. ${status.edit_refused}`;
  find("problems-section").hidden = status.problems.length === 0;
  find("problems").replaceChildren(...status.problems.map((problem) => make("li", null,
    make("span", null, problem.text + (problem.count > 1 ? ` (${problem.count} times)` : "")),
    make("span", "soft", ago(now - problem.at)))));
  const names = new Map(status.systems.map((system) => [system.id, system.name]));
  const nodes = [...status.nodes].sort((a, b) => (now - a.seen > AWAY) - (now - b.seen > AWAY)
    || (a.name ?? a.mac).localeCompare(b.name ?? b.mac, undefined, { numeric: true }));
  find("nodes").replaceChildren(...nodes.map((node) => nodeCard(node, names, now)));
  find("no-nodes").hidden = nodes.length > 0;
  find("systems").replaceChildren(...status.systems.map((system) =>
    systemCard(system, status.nodes.filter((node) => node.system === system.id).length)));
  find("no-systems").hidden = status.systems.length > 0;
  const { version, issued, expires } = status.catalog;
  find("catalog").textContent = version === 0 ? "No catalog is published yet"
    : `Catalog ${version}, signed ${ago(now - issued)}, valid for ${span(expires - now)}`;
  find("version").textContent = `bt-server ${status.server}`;
}

let heard = Date.now();
async function refresh() {
  try {
    const answer = await fetch("/status.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    show(await answer.json());
    heard = Date.now();
    find("lost").hidden = true;
  } catch (error) {
    find("lost").hidden = false;
    find("lost").textContent = `The server does not answer (${error.message}); `
      + `what you see is ${span((Date.now() - heard) / 1000)} old. Trying again.`;
  }
  setTimeout(refresh, INTERVAL);
}
refresh();
