// What can go wrong with a request, by what the user can do about it.

const KIND_OF_CODE = {
  access_denied: "key",
  too_many_wrong_keys: "key", // the right one still passes
  not_configured: "failed",
  rate_limited: "limit",
  overloaded: "full",
  shutting_down: "restarting",
  deadline_exceeded: "slow",
  model_pulling: "pulling",
  embedding_expired: "expired",
};
const WAITABLE = new Set(["limit", "full", "restarting", "asleep", "unreachable", "offline", "pulling", "slow"]);
// What a host answers while it starts the machine.
const ASLEEP = new Set([502, 503, 504]);

const TITLES = {
  key: "A key is needed",
  limit: "Too many requests",
  full: "The server is busy",
  restarting: "The server is restarting",
  asleep: "The server is starting",
  unreachable: "The server cannot be reached",
  offline: "You are offline",
  pulling: "The model is being downloaded",
  slow: "The request timed out",
  expired: "The photo has expired on the server",
  mask: "The mask has expired on the server",
  refused: "The server refused the request",
  failed: "The server failed",
  stopped: "Stopped",
};

const TEXTS = {
  limit: "This key has reached its rate limit.",
  full: "Its queue is full. Your request waits here.",
  restarting: "It will be back in a moment.",
  asleep: "It shuts down when idle and takes a while to start.",
  unreachable: "It may be starting, or the connection is down.",
  offline: "Requests continue when you are back online.",
  slow: "The server did not finish in time.",
  stopped: "Nothing more is sent until you try again.",
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
    return this.kind === "failed" && this.requestId ? `${text} Request id: ${this.requestId}` : text;
  }

  /** Whether a later try may succeed by itself. */
  get isWaitable() {
    return WAITABLE.has(this.kind);
  }

  /** Seconds until the next try: the server's Retry-After where it gave one. */
  pauseS(attempt) {
    // The browser tells when the connection is back; this is in case it does not.
    const own = this.kind === "offline" ? 60 : Math.min(15, 1.5 ** attempt);
    return Math.max(1, Math.min(this.retryAfterS ?? own, 120));
  }
}

/** The trouble in an answer that is not 2xx. */
export function troubleOf(status, contentType, text, headers) {
  let problem = {};
  try {
    if (contentType.includes("json")) problem = JSON.parse(text) ?? {};
  } catch {
    // Cut off.
  }
  const { code = "", detail = "", field = "", request_id } = problem;
  const seconds = headers.get("Retry-After");
  const retryAfterS = /^\d+$/.test(seconds) ? Number(seconds) : null;
  const requestId = request_id ?? headers.get("X-Request-Id") ?? "";
  const details = { detail, status, code, field, retryAfterS, requestId };
  // Unknown, or of a photo that was uploaded again since: either way only the clicks are left.
  if ([410, 422].includes(status) && details.field.endsWith("mask_input")) return new Trouble("mask", details);
  if (KIND_OF_CODE[code]) return new Trouble(KIND_OF_CODE[code], details);
  if (!code && ASLEEP.has(status)) return new Trouble("asleep", details);
  if (!code && status === 429) return new Trouble("limit", details);
  details.detail ||= `The server answered ${status}.`;
  return new Trouble(status >= 500 ? "failed" : "refused", details);
}

/** The trouble of getting no answer at all. */
export const noAnswer = () => new Trouble(navigator.onLine === false ? "offline" : "unreachable");
