/** One video or two side by side under one set of controls: play, loop, frame steps, scrub. */

import {icon, make} from './element.js';

/** Frames that a follower may be off before it is set right. */
const MOST_DRIFT = 0.75;

/**
 * Show videos that play in step.
 * @param {HTMLElement} root is filled anew
 * @param {{url: string, label: string, small: boolean}[]} shown one or two; small ones keep their pixels sharp
 * @param {{fps: number, numFrames: number}} times of the shortest of them
 * @param {(second: number) => void} onTime told whenever another frame is shown
 * @returns {{seek: (second: number) => void, leader: HTMLVideoElement, destroy: () => void}}
 */
export function mountPlayer(root, shown, times, onTime) {
  const videos = shown.map(each => make('video', {
    src: each.url, muted: true, playsInline: true, preload: 'auto', disablePictureInPicture: true,
    className: each.small ? 'sharp' : '', 'aria-label': each.label}));
  const leader = videos[0];
  let looping = true;
  let drawing = 0;
  let shownFrame = -1;

  const play = make('button', {type: 'button', className: 'round', onclick: toggle}, icon('play'));
  const loop = make('button', {type: 'button', 'aria-pressed': 'true', 'aria-label': 'Loop', title: 'Loop', onclick() {
    looping = !looping;
    loop.setAttribute('aria-pressed', String(looping));
  }}, icon('loop'));
  const back = stepButton('back', 'One frame back', -1);
  const forward = stepButton('forward', 'One frame on', 1);
  const scrub = make('input', {type: 'range', min: 0, max: times.numFrames - 1, step: 1, value: 0,
    'aria-label': 'Frame', oninput: () => goTo(Number(scrub.value))});
  const clock = make('output', {className: 'clock'});
  const full = make('button', {type: 'button', 'aria-label': 'Full screen', title: 'Full screen',
    onclick: () => screens.requestFullscreen?.()}, icon('full'));
  const screens = make('div', {className: `screens of-${videos.length}`}, ...videos.map((video, index) =>
    make('figure', {}, video, videos.length > 1 && make('figcaption', {}, shown[index].label))));
  root.replaceChildren(screens, make('div', {className: 'transport', role: 'group', 'aria-label': 'Playback'},
    scrub, play, back, forward, clock, loop, full));

  for (const video of videos) video.addEventListener('click', toggle);
  leader.addEventListener('play', follow);
  leader.addEventListener('pause', showState);
  leader.addEventListener('seeked', showTime);
  leader.addEventListener('loadeddata', showTime);
  leader.addEventListener('ended', () => {
    if (!looping) return videos.forEach(video => video.pause());
    videos.forEach(video => { video.currentTime = 0; });
    start();
  });
  showState();
  showTime();
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) start();

  function start() {
    // A browser may refuse to play before the page is touched; the button is there for that.
    for (const video of videos) video.play().catch(() => showState());
  }

  function toggle() {
    if (leader.paused) start();
    else videos.forEach(video => video.pause());
  }

  function stepButton(name, label, frames) {
    return make('button', {type: 'button', 'aria-label': label, title: label,
      onclick: () => goTo(frame() + frames)}, icon(name));
  }

  function frame() {
    return Math.min(Math.floor(leader.currentTime * times.fps + 1e-3), times.numFrames - 1);
  }

  function goTo(number) {
    const wanted = Math.min(Math.max(number, 0), times.numFrames - 1);
    // The middle of a frame's time: either edge may show the neighbour.
    videos.forEach(video => {
      video.pause();
      video.currentTime = (wanted + 0.5) / times.fps;
    });
  }

  function follow() {
    showState();
    cancelAnimationFrame(drawing);
    const turn = () => {
      showTime();
      videos.slice(1).forEach(keepUp);
      if (!leader.paused && !leader.ended) drawing = requestAnimationFrame(turn);
    };
    turn();
  }

  function keepUp(video) {
    const drift = Math.abs(video.currentTime - leader.currentTime) * times.fps;
    if (drift > MOST_DRIFT && !video.seeking) video.currentTime = leader.currentTime;
  }

  function showState() {
    const playing = !leader.paused;
    play.replaceChildren(icon(playing ? 'pause' : 'play'));
    play.setAttribute('aria-label', playing ? 'Pause' : 'Play');
  }

  function showTime() {
    const now = frame();
    if (now === shownFrame) return;
    shownFrame = now;
    scrub.value = now;
    const second = now / times.fps;
    const text = `${second.toFixed(2)} s`;
    scrub.setAttribute('aria-valuetext', `frame ${now} of ${times.numFrames - 1}, ${text}`);
    clock.replaceChildren(text, make('span', {className: 'faint'}, ` ${now}/${times.numFrames - 1}`));
    onTime(second);
  }

  return {
    leader,
    seek: second => goTo(Math.round(second * times.fps)),
    destroy() {
      cancelAnimationFrame(drawing);
      for (const video of videos) {
        video.pause();
        video.removeAttribute('src');
        video.load();
      }
      root.replaceChildren();
    },
  };
}
