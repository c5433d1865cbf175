// Retries: one notice for all requests that wait, however many ran into the same trouble.

import { Trouble } from "./troubles.js";

// After this the user has to ask for another try.
const MOST_WAIT_MS = 5 * 60_000;
// A request that timed out once may be quicker with a warm model; one that did so twice is too much work.
const MOST_SLOW = 2;

function aborted(signal) {
  return new Promise((_, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

export class Patience {
  /**
   * @param {{onWait, onEnd, askForKey}} hooks
   */
  constructor(hooks) {
    this.hooks = hooks;
    this.waiting = null;
    this.troubled = 0; // how many tasks have waited and are not done
    addEventListener("online", () => this.tryNow());
  }

  /** Run a task until it succeeds, fails in a way that retrying does not fix, or the user stops it. */
  async run(task, signal) {
    let since = null;
    let slow = 0;
    try {
      for (let attempt = 0; ; attempt++) {
        signal?.throwIfAborted();
        try {
          return await task();
        } catch (error) {
          if (signal?.aborted || !(error instanceof Trouble)) throw error;
          if (error.kind === "key") {
            await this.hooks.askForKey(error);
            continue;
          }
          if (!error.isWaitable) throw error;
          if (error.kind === "slow") slow++;
          if (since === null) this.troubled++;
          since ??= performance.now();
          // The browser tells when the connection is back; that wait costs nobody anything.
          const isOver = slow >= MOST_SLOW || (error.kind !== "offline" && performance.now() - since >= MOST_WAIT_MS);
          if (isOver) throw error;
          await this.wait(error, attempt, signal);
        }
      }
    } finally {
      if (since !== null && !--this.troubled) this.hooks.onEnd();
    }
  }

  tryNow() {
    this.waiting?.finish();
  }

  stop() {
    this.waiting?.fail();
  }

  /** Join the wait. An aborted request leaves it, and the last to leave ends it. */
  async wait(trouble, attempt, signal) {
    const waiting = (this.waiting ??= this.begin(trouble, attempt));
    waiting.waiters++;
    try {
      await Promise.race([waiting.promise, aborted(signal)]);
    } finally {
      if (!--waiting.waiters) waiting.finish();
    }
  }

  begin(trouble, attempt) {
    const until = performance.now() + trouble.pauseS(attempt) * 1000;
    const waiting = { waiters: 0 };
    waiting.promise = new Promise((resolve, reject) => {
      const over = (settle) => () => {
        clearInterval(timer);
        if (this.waiting === waiting) this.waiting = null;
        settle();
      };
      waiting.finish = over(resolve);
      waiting.fail = over(() => reject(new DOMException("stopped", "AbortError")));
      const tell = () => {
        const seconds = Math.ceil((until - performance.now()) / 1000);
        if (seconds > 0) this.hooks.onWait(trouble, seconds);
        else waiting.finish();
      };
      const timer = setInterval(tell, 500);
      tell();
    });
    return waiting;
  }
}
