/** The jobs of this tab that wait or run: progress, times, preview, stop. */

import {make} from './element.js';

/**
 * Manage the list of a tab's unfinished jobs.
 * @param {HTMLElement} root
 * @param {(ids: string[]) => void} onStop
 * @returns {(jobs: Object[]) => void} shows these jobs, the one that runs first
 */
export function mountRunning(root, onStop) {
  const rows = new Map();
  return jobs => {
    const ordered = [...jobs].sort((first, second) => first.place - second.place);
    for (const id of rows.keys()) if (!ordered.some(job => job.id === id)) rows.delete(id);
    const children = ordered.map(job => {
      if (!rows.has(job.id)) rows.set(job.id, makeRow(job, onStop));
      rows.get(job.id).show(job);
      return rows.get(job.id).element;
    });
    if (ordered.length > 1) {
      children.push(make('button', {type: 'button', onclick: () => onStop(ordered.map(job => job.id))}, 'Stop all'));
    }
    if (children.length !== root.children.length || children.some((child, index) => child !== root.children[index])) {
      const focused = document.activeElement;
      root.replaceChildren(...children);
      if (root.contains(focused)) focused.focus();
    }
  };
}

function makeRow(job, onStop) {
  const title = make('strong', {});
  const times = make('span', {className: 'faint'});
  const bar = make('progress', {'aria-label': `Progress of seed ${job.seed}`});
  const preview = make('img', {className: 'preview', alt: 'An estimate of the video as it will be', hidden: true});
  const stop = make('button', {type: 'button', className: 'stop', onclick() {
    stop.disabled = true;
    stop.textContent = 'Stopping…';
    onStop([job.id]);
  }}, 'Stop');
  const head = make('div', {className: 'job-head'}, make('div', {}, title, times), stop);
  const element = make('div', {className: 'job'}, head, bar, preview);
  return {
    element,
    show(now) {
      element.dataset.state = now.state;
      title.textContent = titleOf(now);
      times.textContent = timesTold(now);
      bar.hidden = now.state === 'queued';
      bar.max = now.num_steps;
      if (now.step > 0 && now.step < now.num_steps) bar.value = now.step;
      else bar.removeAttribute('value');
      if (now.preview && now.state === 'running' && preview.getAttribute('src') !== now.preview) {
        preview.src = now.preview;
        preview.hidden = false;
      }
    },
  };
}

function titleOf(job) {
  if (job.state === 'queued') return job.place <= 1 ? 'Next in the queue' : `Number ${job.place} in the queue`;
  if (!job.step) return 'Starting';
  return job.step < job.num_steps ? `Step ${job.step} of ${job.num_steps}` : 'Finishing';
}

function timesTold(job) {
  if (job.state === 'queued') return ` seed ${job.seed}`;
  const told = [];
  if (job.step_s) told.push(`${job.step_s < 10 ? job.step_s.toFixed(2) : job.step_s.toFixed(0)} s a step`);
  if (job.remaining_s != null && job.step) told.push(`${spoken(job.remaining_s)} left`);
  return told.length ? ` ${told.join(' · ')}` : '';
}

function spoken(remaining) {
  if (remaining < 90) return `${Math.ceil(remaining)} s`;
  return remaining < 5400 ? `${Math.round(remaining / 60)} min` : `${(remaining / 3600).toFixed(1)} h`;
}
