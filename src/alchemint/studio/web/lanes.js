/** A result's lanes: the film, and under it for each subject what was asked, what was seen, and the curves. */

import {latentSecond, place, seconds, ticks} from './axis.js';
import {make, svg} from './element.js';
import {explain} from './explaining.js';
import {drawFilm} from './film.js';
import {COLOURS} from './timeline.js';

const CURVE_HEIGHT = 100;
const WIDEST = 1000;

/**
 * Show a job's lanes on one axis of seconds.
 * @param {HTMLElement} root is filled anew
 * @param {Object} job one that is done
 * @param {{fps: number, numFrames: number, duration: number, stride: number}} times
 * @param {{title: string, small: boolean, aspect: number, curves: Object|null, strip: string,
 *   pictureUrl: (id: string) => string, onSeek: (second: number) => void}} choices curves: K by subject and interval;
 *   strip: the film's address, for browsers that cannot draw it from the video
 * @returns {{showTime: (second: number) => void, destroy: () => void}}
 */
export function mountLanes(root, job, times, choices) {
  const ending = new AbortController();
  const film = make('div', {className: 'film'});
  const playhead = make('div', {className: 'playhead'});
  const over = make('div', {className: 'over', 'aria-hidden': 'true'}, playhead);
  const highest = Math.max(0, ...Object.values(job.attention ?? {}).flat());
  const subjects = job.storyboard.subjects ?? [];
  const rows = subjects.map((subject, index) => subjectRow(subject, COLOURS[index % COLOURS.length], {
    job, times, highest, kernels: choices.curves?.[subject.name], pictureUrl: choices.pictureUrl}));
  const lanes = make('div', {className: 'lanes'},
    make('div', {className: 'lane-label'}, choices.title && make('strong', {}, choices.title)), film,
    make('div', {className: 'lane-label'}), ruler(times), ...rows.flat(), ...eventsRow(job.storyboard.events, times),
    over);
  const told = subjects.map(subject =>
    explain(subject.name, subject.appears, job.seen?.[subject.name], job.attention?.[subject.name], times));
  root.replaceChildren(lanes, legend(job, choices.curves),
    make('ul', {className: 'told'}, ...told.map(each => make('li', {className: each.kind}, each.text))));

  const toSecond = event => {
    const box = film.getBoundingClientRect();
    choices.onSeek(Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * times.duration);
  };
  lanes.addEventListener('pointerdown', event => {
    const box = film.getBoundingClientRect();
    if (event.button || event.clientX < box.left || event.clientX > box.right) return;
    toSecond(event);
    if (event.pointerType === 'mouse') lanes.setPointerCapture(event.pointerId);
  });
  lanes.addEventListener('pointermove', event => {
    if (lanes.hasPointerCapture(event.pointerId)) toSecond(event);
  });

  drawFilm(film, job.video, times, choices.aspect, choices.small, ending.signal).catch(() => {
    film.classList.add('whole');
    film.replaceChildren(make('img', {src: choices.strip, alt: ''}));
  });
  return {
    showTime: second => playhead.style.setProperty('left', place(second, times)),
    destroy() {
      ending.abort();
      root.replaceChildren();
    },
  };
}

function ruler(times) {
  const most = matchMedia('(max-width: 40rem)').matches ? 5 : 10;
  return make('div', {className: 'ruler', 'aria-hidden': 'true'}, ...ticks(times.duration, most).map(second => {
    const tick = make('span', {}, `${seconds(second)} s`);
    tick.style.setProperty('left', place(second, times));
    return tick;
  }));
}

function subjectRow(subject, colour, {job, times, highest, kernels, pictureUrl}) {
  const attention = job.attention?.[subject.name];
  const seen = job.seen?.[subject.name];
  const lane = make('div', {className: 'lane', role: 'img', 'aria-label': inWords(subject, seen)});
  lane.style.setProperty('--subject', colour);
  if (kernels || attention) lane.append(curves(kernels, attention, highest, colour, times));
  const asked = make('div', {className: 'bars asked'}, ...subject.appears.map(interval => bar(interval, times, true)));
  lane.append(asked);
  if (seen) lane.append(make('div', {className: 'bars seen'}, ...seen.map(interval => bar(interval, times, false))));
  const label = make('div', {className: 'lane-label'},
    subject.images?.length ? make('img', {src: pictureUrl(subject.images[0]), alt: '', loading: 'lazy'}) : null,
    make('span', {title: subject.name}, subject.name));
  label.style.setProperty('--subject', colour);
  return [label, lane];
}

function eventsRow(events, times) {
  if (!events?.length) return [];
  const bars = events.map(event => {
    const shown = bar(event.during, times, false);
    shown.textContent = shown.title = event.text;
    return shown;
  });
  return [make('div', {className: 'lane-label'}, make('span', {}, 'events')),
    make('div', {className: 'lane events'}, make('div', {className: 'bars asked'}, ...bars))];
}

function bar([start, end], times, captioned) {
  const shown = make('span', {}, captioned && `${seconds(start)} – ${seconds(end)} s`);
  shown.style.setProperty('left', place(start, times));
  shown.style.setProperty('width', `${100 * (Math.min(end, times.duration) - Math.max(start, 0)) / times.duration}%`);
  return shown;
}

function curves(kernels, attention, highest, colour, times) {
  const drawing = svg('svg', {class: 'curves', viewBox: `0 0 ${WIDEST} ${CURVE_HEIGHT}`, preserveAspectRatio: 'none',
    'aria-hidden': 'true'});
  if (attention && highest > 0) {
    const line = points(attention, highest, times);
    drawing.append(svg('polygon', {class: 'attention-area', fill: colour,
      points: `0,${CURVE_HEIGHT} ${line} ${WIDEST},${CURVE_HEIGHT}`}));
    drawing.append(svg('polyline', {class: 'attention', stroke: colour, points: line}));
  }
  const most = Math.max(1e-9, ...(kernels ?? []).flat());
  for (const kernel of kernels ?? []) {
    drawing.append(svg('polyline', {class: 'kernel', points: points(kernel, most, times)}));
  }
  return drawing;
}

function points(values, highest, times) {
  const height = value => (CURVE_HEIGHT * (1 - 0.94 * Math.min(Math.max(value / highest, 0), 1))).toFixed(1);
  const along = index => (WIDEST * Math.min(latentSecond(index, times) / times.duration, 1)).toFixed(1);
  // The last latent's frames reach to the video's end: the line goes on level to it.
  return [...values.map((value, index) => `${along(index)},${height(value)}`), `${WIDEST},${height(values.at(-1))}`]
    .join(' ');
}

function legend(job, kernels) {
  const entry = (kind, text) => make('li', {}, make('i', {className: `key ${kind}`}), text);
  return make('ul', {className: 'legend'},
    entry('asked', 'asked'),
    job.seen && entry('seen', 'seen'),
    kernels && entry('kernel', 'K(t), how strongly the encoding calls the subject'),
    job.attention && entry('attention', 'attention that the frames paid to its pictures'));
}

function inWords(subject, seen) {
  const list = intervals => intervals.map(([start, end]) => `${seconds(start)} to ${seconds(end)} s`).join(', ');
  const looked = seen ? `; seen ${seen.length ? list(seen) : 'never'}` : '';
  return `${subject.name}: asked ${list(subject.appears)}${looked}`;
}
