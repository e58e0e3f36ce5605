// The dashboard: numbers as tiles and tables, plots as pictures with words beside them.

import { $, element, facts, go, onKeys, say } from "./common.js";

const percent = (rate) => `${Math.round(100 * rate)} %`;
const between = ({ low, high }) => `${Math.round(100 * low)} to ${percent(high)}`;
const rate = (share) => (share.rate === null ? "–" : percent(share.rate));
const number = (value) => value.toFixed(2).replace("-", "−");
const many = (count, one, more) => (count === 1 ? `1 ${one}` : `${count.toLocaleString("en")} ${more}`);

function tile(value, name, more) {
  const made = document.createElement("li");
  made.append(element("b", value), element("span", name), element("small", more));
  return made;
}

function table(id, heads, rows) {
  const made = $(id);
  const head = document.createElement("tr");
  head.append(...heads.map((name) => Object.assign(element("th", name), { scope: "col" })));
  if (rows[0]?.at(-1).words !== undefined) head.lastChild.className = "words";
  const top = document.createElement("thead");
  top.append(head);
  const body = document.createElement("tbody");
  body.append(...rows.map(line));
  made.replaceChildren(top, body);
  made.parentElement.hidden = rows.length === 0;
}

function line([name, ...cells]) {
  const made = document.createElement("tr");
  made.append(Object.assign(element("th", name), { scope: "row" }));
  made.append(...cells.map((cell) => (cell.words === undefined ? element("td", cell) : element("td", cell.words, "words"))));
  return made;
}

// The theme of the moment chooses the picture.
function plot(id, name, words) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const image = Object.assign(document.createElement("img"), { alt: words });
  const pick = () => (image.src = `/plots/${name}.png?dark=${dark.matches}`);
  dark.addEventListener("change", pick);
  pick();
  $(id).replaceChildren(image);
}

function tiles({ counts, left, self, others, pace }) {
  $("tiles").replaceChildren(
    tile(String(counts.votes), "votes", `by ${many(counts.people, "person", "people")}, on ${many(counts.pairs, "pair", "pairs")}`),
    tile(pace.rate === null ? "–" : Math.round(pace.rate).toLocaleString("en"), "votes per hour", "of work, pauses left out"),
    tile(rate(left), "for the left side", left.votes ? between(left) : "no vote yet"),
    tile(rate(self), "agree with themselves", self.votes ? many(self.votes, "pair seen again", "pairs seen again") : "no pair seen again yet"),
    tile(rate(others), "agree with others", others.votes ? many(others.votes, "shared judgement", "shared judgements") : "no pair judged by two"),
  );
}

function tables({ counts, standings, duels, bad, left, self, others }) {
  const both = Object.fromEntries(bad.map((one) => [one.model, one]));
  const stand = (one) => [one.model, number(one.strength), `${number(one.low)} to ${number(one.high)}`, String(one.votes), rate(both[one.model])];
  table("standings", ["Model", "Strength", "95 % interval", "Votes", "Both bad"], standings.map(stand));
  const duel = (one) => [`${one.model} over ${one.other}`, percent(one.rate), between(one), String(one.votes)];
  table("duels", ["Against one another (ties count half)", "Wins", "95 % interval", "Votes"], duels.map(duel));
  const trust = (name, share, words) => [name, rate(share), share.votes ? between(share) : "–", String(share.votes), { words }];
  const alpha = others.alpha === null ? "–" : number(others.alpha);
  table("trust", ["Measure", "Value", "95 % interval", "Count", "What it says"], [
    trust("Left side chosen", left, "Sides are random: far from a half, people vote by place."),
    trust("Same choice again", self, "Pairs shown to the same person twice."),
    trust("Same choice by two people", others, "Pairs that several people judged."),
    ["Krippendorff’s alpha", alpha, "–", "–", { words: "1 all agree, 0 as by chance; over A, B, tie and both bad." }],
  ]);
  table("counts", ["What", "Number"], Object.entries(counts).map(([name, value]) => [name, value.toLocaleString("en")]));
}

async function tell() {
  const told = await facts();
  tiles(told);
  tables(told);
  $("standing-plot").hidden = told.standings.length === 0;
  if (told.standings.length) {
    const words = told.standings.map((one) => `${one.model} ${number(one.strength)} (${number(one.low)} to ${number(one.high)})`);
    plot("standing-plot", "standing", `Strengths with intervals: ${words.join("; ")}.`);
  }
  const busiest = Math.max(0, ...told.pace.hours.map((hour) => hour.votes));
  if (busiest) plot("pace-plot", "pace", `Votes in each hour; the most in one hour: ${busiest}.`);
  else $("pace-plot").replaceChildren(element("p", "No votes yet.", "faint"));
}

onKeys({ c: go("/"), g: go("/guidelines") });
try {
  await tell();
} catch (error) {
  say(error.message, true);
}
