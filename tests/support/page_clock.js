// The timers of a page, by a clock that moves only in `clock.advance(ms)`. All else has the real time.
(() => {
  let now = 0, last = 0;
  const timers = new Map();
  window.setTimeout = (call, delay = 0, ...values) => {
    timers.set(++last, {at: now + delay, call: () => call(...values)});
    return last;
  };
  window.clearTimeout = id => { timers.delete(id); };
  window.clock = {
    advance(ms) {
      const end = now + ms;
      for (;;) {
        const [id, timer] = [...timers].reduce((a, b) => b[1].at < a[1].at ? b : a, [0, {at: Infinity}]);
        if (timer.at > end) break;
        timers.delete(id);
        now = timer.at;
        timer.call();
      }
      now = end;
    },
  };
})();
