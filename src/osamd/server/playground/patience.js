// Trying again: one notice for all that waits, however many requests ran into the same trouble.

import { Trouble } from "./troubles.js";

export class Patience {
  /**
   * @param {{onWait: (trouble: Trouble, seconds: number) => void, onEnd: () => void, askForKey: (trouble: Trouble) => Promise<void>}} hooks
   */
  constructor(hooks) {
    this.hooks = hooks;
    this.waiting = null;
    addEventListener("online", () => this.tryNow());
  }

  /** Run a task until it succeeds, or fails in a way that waiting does not mend, or the user stops it. */
  async run(task, signal) {
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      try {
        const result = await task();
        this.end();
        return result;
      } catch (error) {
        if (signal?.aborted || !(error instanceof Trouble)) throw error;
        if (error.kind === "key") await this.hooks.askForKey(error);
        else if (error.isWaitable) await this.wait(error, attempt);
        else throw error;
      }
    }
  }

  tryNow() {
    this.waiting?.finish();
  }

  stop() {
    this.waiting?.fail();
  }

  end() {
    if (!this.waiting) this.hooks.onEnd();
  }

  wait(trouble, attempt) {
    if (this.waiting) return this.waiting.promise;
    const until = performance.now() + trouble.pauseS(attempt) * 1000;
    let timer;
    const promise = new Promise((resolve, reject) => {
      const over = (settle) => () => {
        clearInterval(timer);
        this.waiting = null;
        settle();
      };
      const finish = over(resolve);
      const fail = over(() => {
        this.hooks.onEnd();
        reject(new DOMException("stopped", "AbortError"));
      });
      const tell = () => {
        const seconds = Math.ceil((until - performance.now()) / 1000);
        if (seconds > 0) this.hooks.onWait(trouble, seconds);
        else finish();
      };
      timer = setInterval(tell, 500);
      this.waiting = { finish, fail };
      tell();
    });
    if (this.waiting) this.waiting.promise = promise;
    return promise;
  }
}
