/** Everything that was made, newest first: open it again, compare two, delete. */

import {make} from './element.js';

const STATES = {failed: 'failed', cancelled: 'stopped', queued: 'waiting', running: 'running'};

/**
 * Manage the cards of the history.
 * @param {{cards: HTMLElement, empty: HTMLElement, hint: HTMLElement}} places
 * @param {{onShow: (job: Object) => void, onOpen: (job: Object) => void, onDelete: (job: Object) => void,
 *   onCompare: (jobs: Object[]) => void}} host
 * @returns {{show: (jobs: Object[], shownIds: string[]) => void}}
 */
export function mountHistory(places, host) {
  let compared = [];
  const cards = new Map();

  function choose(job, chosen) {
    compared = chosen ? [...compared, job].slice(-2) : compared.filter(each => each.id !== job.id);
    for (const [id, card] of cards) card.box.checked = compared.some(each => each.id === id);
    places.hint.hidden = compared.length !== 1;
    places.hint.textContent = 'Choose another one to compare with.';
    if (compared.length === 2) host.onCompare(compared);
  }

  return {
    show(jobs, shownIds) {
      compared = compared.filter(each => jobs.some(job => job.id === each.id));
      for (const id of cards.keys()) if (!jobs.some(job => job.id === id)) cards.delete(id);
      const children = jobs.map(job => {
        const known = cards.get(job.id);
        if (!known || known.version !== versionOf(job)) cards.set(job.id, makeCard(job, host, choose));
        const card = cards.get(job.id);
        card.element.toggleAttribute('data-shown', shownIds.includes(job.id));
        card.box.checked = compared.some(each => each.id === job.id);
        return card.element;
      });
      if (children.length !== places.cards.children.length
          || children.some((child, index) => child !== places.cards.children[index])) {
        places.cards.replaceChildren(...children);
      }
      places.empty.hidden = jobs.length > 0;
    },
  };
}

function makeCard(job, host, choose) {
  const box = make('input', {type: 'checkbox', onchange: () => choose(job, box.checked)});
  const done = job.state === 'done';
  const picture = done && job.film
    ? make('img', {src: job.film, alt: '', loading: 'lazy'})
    : make('span', {className: 'state'}, STATES[job.state] ?? job.state);
  const face = make('button', {type: 'button', className: 'face', disabled: !done, onclick: () => host.onShow(job),
    'aria-label': `Show the result: ${job.storyboard.prompt}, seed ${job.seed}`}, picture);
  const element = make('li', {className: 'card', 'data-state': job.state},
    face,
    make('p', {className: 'said', title: job.storyboard.prompt}, job.storyboard.prompt),
    make('p', {className: 'faint'}, `seed ${job.seed} · ${job.num_steps} steps · ${madeAt(job.created)}`),
    job.faults?.length ? make('p', {className: 'fault'}, job.faults.join(' ')) : null,
    make('div', {className: 'actions'},
      make('button', {type: 'button', onclick: () => host.onOpen(job), title: 'Open as storyboard'}, 'Open'),
      make('button', {type: 'button', onclick: () => host.onDelete(job)}, 'Delete'),
      make('label', {className: 'compare', hidden: !done}, box, ' Compare')));
  return {element, box, version: versionOf(job)};
}

/** What of a job a card shows and may change: the film comes some time after the video. */
function versionOf(job) {
  return `${job.state} ${job.film} ${job.faults}`;
}

function madeAt(created) {
  const date = new Date(typeof created === 'number' ? created * 1000 : created);
  if (Number.isNaN(date.getTime())) return '';
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, today ? {timeStyle: 'short'} : {dateStyle: 'medium', timeStyle: 'short'});
}
