// Moves the dials: by their sliders, by costs, or to a rate of uninvited alerts.
'use strict';

function costPer100(dial, point) {
  const [miss, alarm] = ['cost-miss', 'cost-alarm'].map((id) => {
    const { valueAsNumber } = document.getElementById(id);
    return valueAsNumber >= 0 ? valueAsNumber : 0;
  });
  return (100 * (miss * point.misses + alarm * point.overs)) / dial.cases;
}

function figure(dial, point, key) {
  if (key === 'cost') return fixed(costPer100(dial, point), 1);
  if (key.startsWith('group:')) return fixed(point.groups[key.slice(6)], 3);
  if (key === 'macro_f1') return fixed(point.macro_f1, 3);
  if (key === 'alerts') return fixed(point.alerts, 1);
  return point[key] === null ? '–' : `${fixed(100 * point[key], 1)} %`;
}

function dialText(point) {
  return (point.dial < 0 ? '−' : '+') + fixed(Math.abs(point.dial), 2);
}

// Returns the index of the point with the least value; of equals the first, which alerts least.
function least(points, value) {
  return points.reduce((best, point, i) => (value(point) < value(points[best]) ? i : best), 0);
}

function startDial(card, marker) {
  const dial = DATA.evaluations[card.dataset.evaluation].dial;
  const slider = card.querySelector('input');
  const show = () => {
    const point = dial.points[slider.value];
    card.querySelector('output').textContent = dialText(point);
    slider.setAttribute('aria-valuetext', `dial ${dialText(point)}`);
    for (const place of card.querySelectorAll('[data-figure]')) {
      place.textContent = figure(dial, point, place.dataset.figure);
    }
    placeMarker(marker, point.over, point.missed);
  };
  slider.addEventListener('input', show);
  show();
  return {
    set: (index) => { slider.value = index; show(); },
    dial,
  };
}

function placeMarker(marker, x, y) {
  const [left, right, bottom, top] = marker.ownerSVGElement.dataset.box.split(' ').map(Number);
  marker.setAttribute('cx', left + x * (right - left));
  marker.setAttribute('cy', bottom + y * (top - bottom));
}

// Copies the texts of one rate from the table of all rates into the table of the arms.
function startArms() {
  const section = document.getElementById('arms');
  if (!section) return;
  const [small, all] = ['arms', 'arms by rate'].map((name) => (
    section.querySelector(`table[data-name="${name}"]`)
  ));
  const markers = section.querySelectorAll('circle.marker');
  const slider = section.querySelector('input');
  const show = () => {
    const [rate, ...cells] = all.tBodies[0].rows[slider.value].cells;
    section.querySelector('output').textContent = rate.textContent;
    slider.setAttribute('aria-valuetext', `at most ${rate.textContent} uninvited`);
    [...small.tBodies[0].rows].forEach((row, n) => {
      const [missed, over] = cells.slice(2 * n, 2 * n + 2);
      row.cells[2].replaceChildren(...missed.cloneNode(true).childNodes);
      row.cells[3].textContent = over.textContent;
      placeMarker(markers[n], ...over.dataset.at.split(' ').map(Number));
    });
  };
  section.querySelector('.live').hidden = false;
  slider.addEventListener('input', show);
  show();
}

function startDials() {
  const section = document.getElementById('dial');
  if (!section) return;
  const markers = section.querySelectorAll('circle.marker');
  const cards = [...section.querySelectorAll('.dial')];
  if (!cards.length) return;
  for (const part of section.querySelectorAll('.live')) part.hidden = false;
  const dials = cards.map((card, n) => startDial(card, markers[n]));
  const toLeast = (value) => {
    for (const { dial, set } of dials) set(least(dial.points, (point) => value(point, dial)));
  };
  const toLeastCost = () => toLeast((point, dial) => costPer100(dial, point));
  for (const id of ['cost-miss', 'cost-alarm']) {
    document.getElementById(id).addEventListener('input', toLeastCost);
  }
  document.getElementById('least-cost').addEventListener('click', toLeastCost);
  document.getElementById('as-trained').addEventListener('click', () => {
    toLeast((point) => Math.abs(point.dial));
  });
  for (const button of section.querySelectorAll('[data-most]')) {
    const most = Number(button.dataset.most) + 1e-12;
    // What is above the rate comes after everything below it.
    button.addEventListener('click', () => {
      toLeast((point) => (point.over > most ? 1 + point.over : point.missed));
    });
  }
}

startDials();
startArms();
