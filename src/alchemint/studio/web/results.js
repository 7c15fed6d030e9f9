/** The result, or two of them side by side: player, lanes, downloads. */

import * as api from './api.js';
import {timesOf} from './axis.js';
import {make} from './element.js';
import {mountLanes} from './lanes.js';
import {mountPlayer} from './player.js';

/** Below this many pixels of width a video's pixels are kept sharp when it is enlarged. */
const SMALL_WIDTH = 200;

/**
 * Manage what the stage shows.
 * @param {{stage: HTMLElement, result: HTMLElement, when: HTMLElement, lanes: HTMLElement}} places
 * @param {Object} model
 * @param {{onOpen: (job: Object) => void, onFault: (error: Error) => void}} host
 * @returns {{show: (jobs: Object[]) => void, update: (job: Object) => void, forget: (id: string) => void,
 *   shown: () => Object[]}}
 */
export function mountResults(places, model, host) {
  const empty = places.result.firstElementChild;
  let shown = [];
  let parts = [];
  let player = null;
  let turn = 0;

  function clear() {
    for (const part of parts) part.destroy();
    player?.destroy();
    [parts, player, shown] = [[], null, []];
    places.when.hidden = true;
    places.stage.classList.remove('wide');
    places.result.replaceChildren(empty);
  }

  function show(jobs) {
    clear();
    if (!jobs.length) return;
    shown = jobs;
    turn += 1;
    const allTimes = jobs.map(job => timesOf(job.storyboard, model));
    const shortest = allTimes.reduce((first, other) => other.numFrames < first.numFrames ? other : first);
    const screen = make('div', {className: 'player'});
    places.stage.classList.toggle('wide', jobs.length > 1);
    places.result.replaceChildren(screen,
      make('div', {className: 'abouts'}, ...jobs.map(job => about(job, jobs.length > 1, host))));
    player = mountPlayer(screen, jobs.map(job => ({url: job.video, label: nameOf(job), small: isSmall(job)})), shortest,
      second => parts.forEach(part => part.showTime(second)));
    places.when.hidden = false;
    places.lanes.replaceChildren();
    jobs.forEach((job, index) => layLanes(job, allTimes[index], turn));
  }

  async function layLanes(job, times, mine) {
    const root = make('div', {className: 'lanes-of'});
    places.lanes.append(root);
    // What an interval's encoding calls for is known without the weights; without it the rest still shows.
    const curves = await api.check(job.storyboard).then(told => told.curves ?? null, () => null);
    if (mine !== turn) return;
    const lanes = mountLanes(root, job, times, {
      title: shown.length > 1 ? nameOf(job) : '', small: isSmall(job), aspect: sizeOf(job)[0] / sizeOf(job)[1], curves,
      strip: job.film, pictureUrl: api.pictureUrl, onSeek: second => player?.seek(second)});
    parts.push(lanes);
  }

  function sizeOf(job) {
    return [job.storyboard.width ?? model.width, job.storyboard.height ?? model.height];
  }

  function isSmall(job) {
    return sizeOf(job)[0] < SMALL_WIDTH;
  }

  return {
    show,
    shown: () => shown,
    forget(id) {
      if (shown.some(job => job.id === id)) clear();
    },
    /** What is seen is told some time after the video. */
    update(job) {
      const index = shown.findIndex(each => each.id === job.id);
      if (index < 0 || JSON.stringify(shown[index].seen) === JSON.stringify(job.seen)) return;
      shown = shown.with(index, job);
      turn += 1;
      parts.splice(0).forEach(part => part.destroy());
      places.lanes.replaceChildren();
      shown.forEach(each => layLanes(each, timesOf(each.storyboard, model), turn));
    },
  };
}

/** @returns {string} what tells a job from its neighbours */
export function nameOf(job) {
  return `seed ${job.seed}`;
}

function about(job, compared, host) {
  const base = fileName(job);
  return make('div', {className: 'about'},
    compared && make('strong', {}, nameOf(job)),
    !compared && make('p', {className: 'said'}, job.storyboard.prompt),
    make('p', {className: 'faint'}, `${compared ? '' : `seed ${job.seed} · `}${job.num_steps} steps`
      + (job.step_s ? ` · ${job.step_s.toFixed(2)} s a step` : '')),
    make('div', {className: 'actions'},
      make('button', {type: 'button', onclick: () => host.onOpen(job)}, 'Open as storyboard'),
      make('a', {className: 'button', href: job.video, download: `${base}.mp4`}, 'MP4'),
      job.made && make('a', {className: 'button', href: job.made, download: `${base}.json`}, 'JSON'),
      job.sheet && make('a', {className: 'button', href: job.sheet, download: `${base}.png`}, 'Sheet'),
      make('button', {type: 'button', onclick: () => saveZip(job, base, host)}, 'Zip')));
}

async function saveZip(job, base, host) {
  try {
    save(await api.exportZip({...job.storyboard, seed: job.seed}), `${base}.zip`);
  } catch (error) {
    host.onFault(error);
  }
}

/**
 * Let the browser save a file.
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make('a', {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** @returns {string} a file name of the prompt's first words and the seed */
export function fileName(job) {
  const words = job.storyboard.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ['video'];
  return [...words.slice(0, 5), job.seed].filter(part => part != null).join('-').slice(0, 60);
}
