"use strict";

const $ = id => document.getElementById(id);
const FIGURES = ["tokens a second", "tokens a round", "tokens", "seconds"];
const ROUND_COLOURS = 4;
let running = null; // AbortController of what is being answered
let model = null;

// --- the server ---------------------------------------------------------------------------------------------------

function headers() {
  const key = $("key").value;
  return {"content-type": "application/json", ...(key ? {authorization: `Bearer ${key}`} : {})};
}

async function refusal(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

async function answer(panel, drafting, signal) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    signal,
    body: JSON.stringify({
      model: model.id,
      messages: [{role: "user", content: $("prompt").value}],
      temperature: Number($("temperature").value),
      max_tokens: Number($("tokens").value),
      stream: true,
      paradraft: {rounds: true, ...drafting},
    }),
  });
  if (!response.ok) throw new Error(await refusal(response));
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    for (const round of event.paradraft?.rounds ?? []) panel.add(round);
    const reason = event.choices[0]?.finish_reason;
    if (reason) panel.end(reason);
  }
}

// --- an answer with its rounds ------------------------------------------------------------------------------------

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

class Panel {
  constructor(id, chart) {
    this.root = $(id);
    this.text = this.root.querySelector(".answer");
    this.detail = this.root.querySelector(".detail");
    this.chart = chart;
    this.values = FIGURES.map(name => {
      const pair = element("div"), value = element("dd", "", "–");
      pair.append(element("dt", "", name), value);
      this.root.querySelector("dl").append(pair);
      return value;
    });
    this.text.addEventListener("mouseover", event => this.choose(this.indexOf(event.target)));
    this.text.addEventListener("click", event => this.choose(this.indexOf(event.target)));
    this.text.addEventListener("keydown", event => this.key(event));
    this.clear();
  }

  clear() {
    this.rounds = [];
    this.tokens = this.seconds = this.steps = 0;
    this.reason = null;
    this.chosen = -1;
    this.text.replaceChildren();
    this.detail.replaceChildren();
    for (const value of this.values) value.textContent = "–";
    this.chart?.clear();
  }

  add(round) {
    this.rounds.push(round);
    this.tokens += round.tokens;
    this.seconds = round.seconds;
    const piece = element("span", `round r${this.rounds.length % ROUND_COLOURS}`);
    piece.dataset.index = this.rounds.length - 1;
    piece.append(element("span", "", round.accepted.join("")), element("span", "own", round.own));
    if (round.rejected.length) piece.append(element("del", "", round.rejected.join("")));
    this.text.append(piece);
    if (round.prefill) return;
    this.steps += 1;
    this.chart?.add(round);
    this.show();
  }

  show() {
    const later = this.tokens - this.rounds[0].tokens; // the first token is the prefill's
    const figures = [(later / this.seconds).toFixed(0), (later / this.steps).toFixed(2), this.tokens, this.seconds.toFixed(2)];
    this.values.forEach((value, i) => { value.textContent = figures[i]; });
  }

  get speed() {
    return this.seconds ? (this.tokens - this.rounds[0].tokens) / this.seconds : 0;
  }

  get written() {
    return this.rounds.map(round => round.accepted.join("") + round.own).join("");
  }

  end(reason) {
    this.reason = reason;
  }

  indexOf(target) {
    const piece = target.closest(".round");
    return piece ? Number(piece.dataset.index) : -1;
  }

  choose(index) {
    if (index < 0 || index === this.chosen || index >= this.rounds.length) return;
    this.text.children[this.chosen]?.classList.remove("chosen");
    this.chosen = index;
    this.text.children[index].classList.add("chosen");
    const round = this.rounds[index];
    if (round.prefill) {
      this.detail.replaceChildren("The first token comes with the reading of the prompt.");
      return;
    }
    const drafted = round.drafted ? `${round.drafted} drafted, ${round.kept} kept` : "nothing drafted";
    this.detail.replaceChildren(`Round ${index} of ${this.rounds.length - 1}: ${drafted}. `);
    if (round.rejected.length) this.detail.append("Rejected: ", element("code", "", visible(round.rejected.join(""))));
  }

  key(event) {
    const moves = {ArrowRight: this.chosen + 1, ArrowLeft: Math.max(0, this.chosen - 1), Home: 0, End: this.rounds.length - 1};
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.choose(moves[event.key]);
  }
}

function visible(text) {
  return text.replaceAll("\n", "↵\n");
}

// --- acceptance by position -----------------------------------------------------------------------------------------

class Chart {
  constructor(list) {
    this.list = list;
  }

  clear() {
    this.judged = [];
    this.kept = [];
    this.list.replaceChildren();
  }

  add(round) {
    for (let k = 0; k < round.judged; k += 1) {
      this.judged[k] = (this.judged[k] ?? 0) + 1;
      this.kept[k] = (this.kept[k] ?? 0) + (k < round.kept ? 1 : 0);
    }
    while (this.list.children.length < this.judged.length) {
      const item = element("li");
      item.append(element("span", "share"), element("span", "bar"), element("span", "position", this.list.children.length + 1));
      this.list.append(item);
    }
    this.judged.forEach((judged, k) => {
      const [share, bar] = this.list.children[k].children, percent = 100 * this.kept[k] / judged;
      share.textContent = `${percent.toFixed(0)}%`;
      bar.style.height = `${percent * 0.75}%`;
    });
  }
}

// --- the form -------------------------------------------------------------------------------------------------------

function drafting() {
  const length = $("length").value;
  if (!$("drafter").value) return {drafter: null};
  return {drafter: $("drafter").value, draft_length: length === "auto" ? "auto" : Number(length)};
}

function offerLengths() {
  const drafter = model.paradraft.drafters.find(one => one.name === $("drafter").value);
  const lengths = drafter ? [...Array(drafter.max_draft).keys()].map(k => k + 1) : [];
  $("length").replaceChildren(...[...lengths, ...(drafter ? ["auto"] : [])].map(k => new Option(k, k)));
  const usual = model.paradraft.usual;
  if (drafter) $("length").value = drafter.name === usual.drafter ? usual.draft_length : "auto";
  $("length").disabled = !drafter;
}

function complain(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

function verdict(drafted, plain, beside) {
  if (!drafted.reason || !drafted.speed) return "";
  if (!beside || !plain.reason || !plain.speed) return `${drafted.speed.toFixed(0)} tokens a second`;
  const same = Number($("temperature").value) === 0 ? (drafted.written === plain.written ? ", the same text" : ", another text") : "";
  return `${(drafted.speed / plain.speed).toFixed(2)} times as fast with the drafter${same}`;
}

async function run(drafted, plain) {
  running?.abort();
  const mine = running = new AbortController();
  complain(null);
  $("verdict").textContent = "";
  drafted.clear();
  plain.clear();
  const wish = drafting(), beside = $("beside").checked && wish.drafter !== null;
  drafted.root.hidden = wish.drafter === null;
  plain.root.hidden = wish.drafter !== null && !beside;
  $("chart").hidden = wish.drafter === null;
  $("drafted-title").textContent = `With ${wish.drafter}`;
  $("stop").disabled = false;
  document.body.dataset.state = "running";
  const work = [];
  if (wish.drafter !== null) work.push(answer(drafted, wish, mine.signal));
  if (wish.drafter === null || beside) work.push(answer(plain, {drafter: null}, mine.signal));
  try {
    await Promise.all(work);
    $("verdict").textContent = wish.drafter === null ? "" : verdict(drafted, plain, beside);
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
    mine.abort();
  }
  if (running !== mine) return; // another run has begun
  running = null;
  $("stop").disabled = true;
  document.body.dataset.state = "done";
}

async function connect() {
  const health = await (await fetch("health")).json();
  $("key-row").hidden = !health.needs_key;
  if (health.needs_key && !$("key").value) {
    $("model").textContent = "enter the API key";
    return;
  }
  const response = await fetch("v1/models", {headers: headers()});
  if (!response.ok) throw new Error(await refusal(response));
  model = (await response.json()).data[0];
  $("model").textContent = `${model.id}, ${model.max_model_len} tokens of context`;
  const names = model.paradraft.drafters.map(one => one.name);
  $("drafter").replaceChildren(...names.map(name => new Option(name, name)), new Option("none", ""));
  $("tokens").max = model.max_model_len;
  complain(null);
  offerLengths();
  document.body.dataset.state = "ready";
}

const drafted = new Panel("drafted", new Chart($("chart").querySelector("ol")));
const plain = new Panel("plain");
const start = () => (model ? run(drafted, plain) : connect().then(() => model && run(drafted, plain)).catch(complain));
$("ask").addEventListener("submit", event => { event.preventDefault(); start(); });
$("stop").addEventListener("click", () => running?.abort());
$("key").addEventListener("change", () => connect().catch(complain));
$("drafter").addEventListener("change", offerLengths);
$("rejected").addEventListener("change", () => document.body.classList.toggle("show-rejected", $("rejected").checked));
document.addEventListener("keydown", event => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
connect().catch(complain);
