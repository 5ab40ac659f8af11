(function () {
"use strict";
var doc = document, root = doc.documentElement;
var told = JSON.parse(doc.getElementById("told").textContent);
var status = doc.getElementById("status");
var tip = doc.createElement("div"), hot = [], pinned = false, walked = null;
root.classList.add("lively");
tip.className = "tip";
tip.hidden = true;
doc.body.appendChild(tip);

function words(mark) {
  var trial = told[mark.getAttribute("data-k")];
  return trial ? trial.join("\n") : mark.getAttribute("data-t") || "";
}
function clear() {
  hot.forEach(function (mark) { mark.classList.remove("hot"); });
  hot = [];
  walked = null;
  tip.hidden = true;
}
function light(mark) {
  clear();
  var key = mark.getAttribute("data-k");
  hot = key === null ? [mark] : Array.from(doc.querySelectorAll('[data-k="' + key + '"]'));
  hot.forEach(function (each) { each.classList.add("hot"); });
}
function show(mark, x, y) {
  light(mark);
  tip.textContent = words(mark);
  tip.hidden = false;
  var box = tip.getBoundingClientRect();
  var left = x + 14 + box.width > innerWidth - 8 ? x - 14 - box.width : x + 14;
  var top = y + 14 + box.height > innerHeight - 8 ? y - 14 - box.height : y + 14;
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = Math.max(8, top) + "px";
}
function seen(mark) { return mark.getClientRects().length > 0; }
function marks(chart) { return Array.from(chart.querySelectorAll("[data-k],[data-t]")); }

/* The corners of each line and the middle of each mark, so that a finger can hit a thin line. */
function places(chart) {
  if (chart.places) return chart.places;
  chart.places = [];
  marks(chart).forEach(function (mark) {
    if (mark.classList.contains("line") && mark.hasAttribute("data-k")) {
      mark.getAttribute("d").slice(1).split("L").forEach(function (point) {
        var xy = point.split(" ");
        chart.places.push([+xy[0], +xy[1], mark]);
      });
    } else {
      var box = mark.getBBox();
      chart.places.push([box.x + box.width / 2, box.y + box.height / 2, mark]);
    }
  });
  return chart.places;
}
function nearest(chart, event) {
  var matrix = chart.getScreenCTM(), found = null;
  if (!matrix) return null;
  var x = (event.clientX - matrix.e) / matrix.a, y = (event.clientY - matrix.f) / matrix.d;
  var least = event.pointerType === "touch" ? 900 : 300;
  places(chart).forEach(function (place) {
    var far = Math.pow(place[0] - x, 2) + Math.pow(place[1] - y, 2);
    if (far < least && seen(place[2])) { least = far; found = place[2]; }
  });
  return found;
}
function at(target, what) { return target.closest ? target.closest(what) : null; }
doc.addEventListener("pointermove", function (event) {
  if (pinned || walked) return;
  var chart = at(event.target, "svg.panel"), row = at(event.target, "tr[data-k]");
  var mark = chart && nearest(chart, event);
  if (mark) show(mark, event.clientX, event.clientY);
  else if (row) light(row);
  else if (hot.length) clear();
});
doc.addEventListener("pointerdown", function (event) {
  var chart = at(event.target, "svg.panel"), mark = chart && nearest(chart, event);
  pinned = false;
  if (!mark) return clear();
  show(mark, event.clientX, event.clientY);
  pinned = event.pointerType === "touch";
});
doc.addEventListener("scroll", function () {
  pinned = false;
  /* A chart that takes the focus is scrolled to while its marks are walked. */
  if (walked) walk(walked);
  else if (hot.length) clear();
}, {passive: true});

/* Arrow keys walk the marks of the chart that has the focus. */
doc.addEventListener("keydown", function (event) {
  if (event.key === "Escape") { pinned = false; return clear(); }
  var chart = at(doc.activeElement, "svg.panel");
  var step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: 0, End: 0}[event.key];
  if (!chart || step === undefined) return;
  event.preventDefault();
  var all = marks(chart).filter(seen);
  if (!all.length) return;
  var place = all.indexOf(chart.walked);
  if (event.key === "Home") place = 0;
  else if (event.key === "End") place = all.length - 1;
  else place = place < 0 ? (step > 0 ? 0 : all.length - 1) : (place + step + all.length) % all.length;
  chart.walked = all[place];
  walk(chart.walked);
  status.textContent = tip.textContent;
});
function walk(mark) {
  var box = mark.getBoundingClientRect();
  show(mark, box.left + box.width / 2, box.top + box.height / 2);
  walked = mark;
}
doc.addEventListener("focusout", function () { if (!pinned) clear(); });

/* A heading sorts its table: by the first number of a cell where most have one, else by its words. */
function number(cell) {
  var found = /^[-+−]?[\d.,]+(e[-+]?\d+)?/i.exec(cell.textContent.trim());
  return found ? parseFloat(found[0].replace("−", "-").replace(/,/g, "")) : NaN;
}
doc.addEventListener("click", function (event) {
  var button = at(event.target, "th button");
  if (!button) return;
  var heading = button.parentNode, body = heading.closest("table").tBodies[0];
  var column = Array.from(heading.parentNode.children).indexOf(heading);
  var up = heading.getAttribute("aria-sort") === "descending";
  Array.from(heading.parentNode.children).forEach(function (other) { other.removeAttribute("aria-sort"); });
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  var rows = Array.from(body.rows).map(function (row, place) {
    var cell = row.cells[column], value = number(cell);
    return {row: row, place: place, value: value, words: cell.textContent.trim(), empty: cell.textContent.trim() === "-"};
  });
  var numeric = rows.filter(function (each) { return !isNaN(each.value); }).length * 2 > rows.length;
  rows.sort(function (a, b) {
    var lost = numeric ? isNaN(a.value) - isNaN(b.value) : a.empty - b.empty;
    if (lost) return lost;
    var order = numeric ? (a.value - b.value) || 0 : a.words.localeCompare(b.words);
    return (up ? order : -order) || a.place - b.place;
  });
  rows.forEach(function (each) { body.appendChild(each.row); });
  status.textContent = "sorted by " + button.textContent + (up ? ", ascending" : ", descending");
});

/* The table of trials shows what is looked for. */
doc.querySelectorAll(".tools").forEach(function (tools) {
  var find = tools.querySelector(".find"), state = tools.querySelector(".state");
  function filter() {
    var count = 0, text = find.value.toLowerCase();
    Array.from(tools.parentNode.querySelector("tbody").rows).forEach(function (row) {
      var wanted = state.value === "all" || row.getAttribute("data-s") === state.value;
      row.hidden = !(wanted && row.textContent.toLowerCase().indexOf(text) >= 0);
      count += !row.hidden;
    });
    status.textContent = count + " trials shown";
  }
  tools.addEventListener("input", filter);
});

/* What is switched off is kept in the address, so that a link or a reload keeps it. */
var boxes = Array.from(doc.querySelectorAll(".controls input"));
function keep() {
  var off = boxes.filter(function (box) { return box.checked !== box.defaultChecked; });
  var names = off.filter(function (box) { return box.type === "checkbox" || box.checked; });
  /* A frame in a notebook has no address. */
  try { history.replaceState(null, "", "#" + names.map(function (box) { return box.id; }).join(",")); }
  catch (refused) { return; }
}
location.hash.slice(1).split(",").forEach(function (id) {
  var box = boxes.find(function (each) { return each.id === id; });
  if (box) box.checked = box.type === "radio";
});
doc.querySelector(".controls").addEventListener("change", keep);
doc.querySelector(".controls").addEventListener("submit", function (event) { event.preventDefault(); });
})();
