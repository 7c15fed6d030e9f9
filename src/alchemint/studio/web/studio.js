/** The studio's page: what happens between storyboard, server, results and history. */

import * as api from './api.js';
import {mountComposer} from './composer.js';
import {make} from './element.js';
import {mountHistory} from './history.js';
import {fileName, mountResults, save} from './results.js';
import {mountRunning} from './running.js';

const EXAMPLES = {
  park: 'Park: a fox, later a balloon',
  visits: 'Visits: one duck that comes twice',
  twins: 'Twins: two cats, told apart by their pictures',
  story: 'Story: timed captions of a robot',
};
const PAGE = 12;
const UNFINISHED = ['queued', 'running'];
const STORYBOARD_FILE = /\.(zip|ya?ml|json)$/i;

const $ = id => document.getElementById(id);
const jobs = new Map();
let limit = PAGE;
let awaited = [];
let submitting = false;

keepColours();
begin().catch(tell);

async function begin() {
  const model = await api.model();
  const size = `${model.width} × ${model.height}, ${model.fps} fps`;
  $('model-facts').textContent = `${model.name} · ${size}`;
  const composer = mountComposer(model, {onFault: tell, announce});
  const results = mountResults({stage: $('stage'), result: $('result'), when: $('when'), lanes: $('when-body')}, model,
    {onOpen: openJob, onFault: tell});
  const showRunning = mountRunning($('running'), ids => ids.forEach(id => api.remove(id).catch(tell)));
  const history = mountHistory({cards: $('cards'), empty: $('no-history'), hint: $('compare-hint')}, {
    onShow: job => showResults([job]), onOpen: openJob, onDelete: forget, onCompare: showResults});

  if (!composer.restore()) {
    await openExample('park', '').catch(error => {
      composer.clear();
      tell(error);
    });
  }
  api.listen(hear, loadJobs, id => {
    jobs.delete(id);
    results.forget(id);
    show();
  });

  $('storyboard').addEventListener('submit', event => {
    event.preventDefault();
    generate();
  });
  document.addEventListener('keydown', event => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      generate();
    }
  });
  $('examples').append(...Object.entries(EXAMPLES).map(([value, text]) => make('option', {value}, text)));
  $('examples').addEventListener('change', () => {
    const name = $('examples').value;
    $('examples').value = '';
    openExample(name, `Opened the example ${EXAMPLES[name]}`).catch(tell);
  });
  $('new').addEventListener('click', () => {
    composer.clear();
    $('prompt').focus();
  });
  $('import').addEventListener('click', () => $('import-file').click());
  $('import-file').addEventListener('change', async () => {
    const [file] = $('import-file').files;
    if (file) await openFile(file, file.name).catch(tell);
    $('import-file').value = '';
  });
  $('export').addEventListener('click', exportBoard);
  $('more').addEventListener('click', () => {
    limit += PAGE;
    loadJobs();
  });
  takeDrops(files => {
    const file = files.find(each => STORYBOARD_FILE.test(each.name));
    return file ? openFile(file, file.name).catch(tell) : composer.addPictures(files);
  });

  async function generate() {
    if (submitting) return;
    submitting = true;
    $('generate').disabled = true;
    try {
      const {storyboard, options} = composer.get();
      const made = await api.submit(storyboard, options);
      composer.showFaults([]);
      awaited = made.map(job => job.id);
      made.forEach(job => jobs.set(job.id, job));
      show();
      announce(made.length > 1 ? `${made.length} videos are begun` : 'The video is begun');
      if (matchMedia('(max-width: 60rem)').matches) $('stage').scrollIntoView({block: 'start'});
    } catch (error) {
      if (error instanceof api.Refusal && error.status !== 0) composer.showFaults(error.faults);
      else tell(error);
    } finally {
      submitting = false;
      $('generate').disabled = false;
    }
  }

  function hear(job) {
    const before = jobs.get(job.id);
    jobs.set(job.id, job);
    results.update(job);
    if (before && UNFINISHED.includes(before.state) && !UNFINISHED.includes(job.state) && isMine(job)) ended(job);
    show();
  }

  function ended(job) {
    if (job.state === 'failed') {
      tell(new api.Refusal(0, job.faults?.length ? job.faults : ['The video could not be made.']));
    }
    announce({done: 'A video is done', failed: 'A video failed', cancelled: 'Stopped'}[job.state]);
    // Of several variations the first one done is shown; the others wait in the history.
    if (job.state === 'done' && (awaited.includes(job.id) || !results.shown().length)) {
      awaited = [];
      results.show([job]);
    }
  }

  async function loadJobs() {
    try {
      const listed = await api.jobs(limit + 1);
      for (const id of jobs.keys()) if (!listed.some(job => job.id === id)) jobs.delete(id);
      listed.slice(0, limit).forEach(job => jobs.set(job.id, job));
      $('more').hidden = listed.length <= limit;
      show();
    } catch (error) {
      tell(error);
    }
  }

  function show() {
    const all = [...jobs.values()].sort((first, second) => first.created < second.created ? 1 : -1);
    showRunning(all.filter(job => UNFINISHED.includes(job.state) && isMine(job)));
    const told = all.filter(job => !UNFINISHED.includes(job.state) || !isMine(job));
    history.show(told, results.shown().map(job => job.id));
  }

  function showResults(chosen) {
    results.show(chosen);
    show();
    $('stage').scrollIntoView({block: 'nearest'});
  }

  async function forget(job) {
    try {
      await api.remove(job.id);
      // One that others run is only stopped by this; the server tells of it.
      if (!UNFINISHED.includes(job.state)) jobs.delete(job.id);
      results.forget(job.id);
      show();
    } catch (error) {
      tell(error);
    }
  }

  function openJob(job) {
    composer.open({...job.storyboard, seed: job.seed}, 'Opened as storyboard, with its seed');
    $('storyboard').scrollIntoView({block: 'start'});
    $('prompt').focus({preventScroll: true});
  }

  async function openFile(file, name) {
    const {storyboard} = await api.importFile(file, name);
    composer.open(storyboard, `Opened ${name}`);
  }

  async function openExample(name, told) {
    const response = await fetch(`examples/${name}.zip`);
    if (!response.ok) throw new api.Refusal(response.status, [`The example ${name} is not there.`]);
    const {storyboard} = await api.importFile(await response.blob(), 'example.zip');
    composer.open(storyboard, told);
  }

  async function exportBoard() {
    try {
      const {storyboard} = composer.get();
      save(await api.exportZip(storyboard), `${fileName({storyboard, seed: storyboard.seed})}.zip`);
    } catch (error) {
      if (error instanceof api.Refusal && error.status === 400) composer.showFaults(error.faults);
      else tell(error);
    }
  }
}

/** Whether this tab asked for it. Other tabs' jobs are seen in the history alone. */
function isMine(job) {
  return (job.options?.client ?? api.CLIENT) === api.CLIENT || awaited.includes(job.id);
}

function tell(error) {
  const notice = $('notice');
  notice.firstElementChild.textContent = error.message ?? `${error}`;
  notice.hidden = false;
  notice.querySelector('button').onclick = () => { notice.hidden = true; };
}

function announce(text) {
  $('announcer').textContent = text;
}

function keepColours() {
  const root = document.documentElement;
  $('theme').value = root.dataset.theme ?? 'auto';
  $('theme').addEventListener('change', () => {
    const chosen = $('theme').value;
    if (chosen === 'auto') delete root.dataset.theme;
    else root.dataset.theme = chosen;
    try {
      localStorage.setItem('alchemint.theme', chosen);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
  });
}

/** Take files that are dropped anywhere but where the timeline takes them itself. */
function takeDrops(onFiles) {
  const holdsFiles = event => event.dataTransfer?.types.includes('Files');
  let depth = 0;
  const entered = by => {
    depth = by === 0 ? 0 : Math.max(0, depth + by);
    $('drop').hidden = depth === 0;
  };
  document.addEventListener('dragenter', event => holdsFiles(event) && entered(1));
  document.addEventListener('dragleave', event => holdsFiles(event) && entered(-1));
  document.addEventListener('dragover', event => holdsFiles(event) && event.preventDefault());
  const take = event => {
    event.preventDefault();
    onFiles([...event.dataTransfer.files]);
  };
  // A storyboard's file is taken before the timeline sees it; pictures only when it has left them alone.
  document.addEventListener('drop', event => {
    entered(0);
    if (![...event.dataTransfer?.files ?? []].some(file => STORYBOARD_FILE.test(file.name))) return;
    event.stopPropagation();
    take(event);
  }, {capture: true});
  document.addEventListener('drop', event => {
    if (!event.defaultPrevented && holdsFiles(event)) take(event);
  });
}
