// Whose turn it is, as far as two loudnesses tell: no event of the backend is needed for it.

const YOU_SPEAK = 0.42; // of 1, on the meters' scale: -35 dB
const BACK_SPEAKS = 0.3;
const YOU_HOLD_MS = 350; // a pause inside a sentence
const BACK_HOLD_MS = 700; // and one between two sentences of an answer
const CUT_MS = 250; // but silence while you speak over it is no pause
const BEFORE_MS = 500; // so long an answer must have run for its end to be an interruption
const THINK_MS = 4000;
const NOTICE_MS = 1500;

export const TURNS = {
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking",
  answering: "Answering",
  both: "Both speak",
  interrupted: "Interrupted",
};

export class Turns {
  turn = "listening";
  interruptions = 0;

  #you = new Voice(YOU_SPEAK, YOU_HOLD_MS);
  #back = new Voice(BACK_SPEAKS, BACK_HOLD_MS);
  #isBargeIn = false;
  #interruptedAt = -Infinity;

  add(now, you, back) {
    const before = { you: this.#you.speaks, back: this.#back.speaks };
    this.#you.add(now, you);
    this.#back.add(now, back);
    if (this.#you.speaks && !before.you) {
      this.#isBargeIn = before.back && now - this.#back.began > BEFORE_MS;
    }
    if (this.#isBargeIn && before.back && now - this.#back.last > CUT_MS) {
      this.#isBargeIn = this.#back.speaks = false;
      this.#interruptedAt = now;
      this.interruptions += 1;
    }
    this.turn = this.#choose(now);
  }

  #choose(now) {
    if (this.#back.speaks) return this.#you.speaks ? "both" : "answering";
    if (now - this.#interruptedAt < NOTICE_MS) return "interrupted";
    if (this.#you.speaks) return "hearing";
    const isOpen = this.#you.last > this.#back.last && now - this.#you.last < THINK_MS;
    return isOpen ? "thinking" : "listening";
  }
}

// One side: it speaks from the first loud moment until it was quiet for a while.
class Voice {
  speaks = false;
  began = -Infinity;
  last = -Infinity;

  constructor(level, hold) {
    this.level = level;
    this.hold = hold;
  }

  add(now, level) {
    if (level > this.level) {
      this.last = now;
      if (!this.speaks) this.began = now;
    }
    this.speaks = (this.speaks || level > this.level) && now - this.last < this.hold;
  }
}
