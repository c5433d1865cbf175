// What can go wrong on the way, told apart by what the user can do about it.

const KIND_OF_CODE = {
  access_denied: "key",
  too_many_wrong_keys: "key", // a right one passes all the same
  not_configured: "failed",
  rate_limited: "limit",
  overloaded: "full",
  shutting_down: "restarting",
  deadline_exceeded: "slow",
  model_pulling: "pulling",
  embedding_expired: "expired",
};
const WAITABLE = new Set(["limit", "full", "restarting", "asleep", "unreachable", "offline", "pulling", "slow"]);
// What a host answers in our place while it wakes the machine up.
const ASLEEP = new Set([502, 503, 504]);

const TITLES = {
  key: "A key is needed",
  limit: "Too many requests",
  full: "The server is busy",
  restarting: "The server is restarting",
  asleep: "The server is waking up",
  unreachable: "The server cannot be reached",
  offline: "You are offline",
  pulling: "The model is on its way",
  slow: "That took too long",
  expired: "The photo was forgotten",
  mask: "The mask was forgotten",
  refused: "That did not work",
  failed: "The server failed",
  stopped: "Stopped",
};

const TEXTS = {
  limit: "This key has used up its share for the moment.",
  full: "Its queue is full. Your click waits here.",
  restarting: "It will be back in a moment.",
  asleep: "It sleeps when nobody asks, and takes a while to start.",
  unreachable: "It may be starting, or the connection is lost.",
  offline: "It goes on by itself when the connection is back.",
  slow: "The server gave up on the request.",
  stopped: "Nothing more is sent until you say so.",
};

export class Trouble extends Error {
  constructor(kind, { detail = "", status = 0, code = "", field = "", retryAfterS = null, requestId = "" } = {}) {
    super(detail || TITLES[kind]);
    Object.assign(this, { kind, detail, status, code, field, retryAfterS, requestId });
  }

  get title() {
    return TITLES[this.kind];
  }

  get text() {
    const text = TEXTS[this.kind] ?? this.detail;
    return this.kind === "failed" && this.requestId ? `${text} Request ${this.requestId}.` : text;
  }

  /** Whether another try later may succeed without anybody doing anything. */
  get isWaitable() {
    return WAITABLE.has(this.kind);
  }

  /** Seconds until the next try, the server's own word first. */
  pauseS(attempt) {
    // The browser says when the connection is back; what is tried meanwhile is in case it errs.
    const own = this.kind === "offline" ? 60 : Math.min(15, 1.5 ** attempt);
    return Math.max(1, Math.min(this.retryAfterS ?? own, 120));
  }
}

/** The trouble in an answer that is not 2xx. */
export function troubleOf(status, contentType, text, headers) {
  let problem = null;
  if (contentType.includes("json")) {
    try {
      problem = JSON.parse(text);
    } catch {
      problem = null;
    }
  }
  const code = problem?.code ?? "";
  const seconds = headers.get("Retry-After");
  const details = {
    detail: problem?.detail ?? "",
    status,
    code,
    field: problem?.field ?? "",
    retryAfterS: seconds !== null && /^\d+$/.test(seconds) ? Number(seconds) : null,
    requestId: problem?.request_id ?? headers.get("X-Request-Id") ?? "",
  };
  // Unknown, or of a photo that was sent again since: either way the clicks alone are left.
  if ([410, 422].includes(status) && details.field.endsWith("mask_input")) return new Trouble("mask", details);
  if (KIND_OF_CODE[code]) return new Trouble(KIND_OF_CODE[code], details);
  if (!code && ASLEEP.has(status)) return new Trouble("asleep", details);
  if (!code && status === 429) return new Trouble("limit", details);
  details.detail ||= `The answer was ${status}.`;
  return new Trouble(status >= 500 ? "failed" : "refused", details);
}

/** The trouble of getting no answer at all. */
export const noAnswer = () => new Trouble(navigator.onLine === false ? "offline" : "unreachable");
