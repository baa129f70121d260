/**
 * Statements that a session is asked again and again are parsed and planned there once, as named prepared
 * statements: those that name their rows by key, whose plan does not depend on the values. Only as long as their
 * text surely means the same (a prepared statement keeps its parameters' types, and what its names meant), and
 * nothing in it is evaluated when it is parsed or planned.
 */
import { analyse } from '../sql/analyse.ts'
import { isSteady } from '../sql/infer.ts'
import type { Config } from './arguments.ts'

/** Texts beyond these are sent as they are. */
const MOST = 100

export class Prepared {
  /** By text: could it be prepared? */
  readonly #seen = new Map<string, boolean>()
  readonly #names = new Map<string, string>()
  readonly #close: (name: string) => void
  #meaning = ''

  constructor(close: (name: string) => void) {
    this.#close = close
  }

  /** It is asked not for the first time, and may have a name. */
  isOften({ text, values, name }: Config): boolean {
    if (name !== undefined || typeof text !== 'string' || !values?.length) return false
    const known = this.#seen.get(text)
    if (known === undefined && this.#seen.size < MOST) this.#seen.set(text, analyse(text).every(isSteady))
    return known ?? false
  }

  /** What is often asked has a name. meaning: another one as soon as a text may have come to mean something else. */
  named(config: Config, meaning: string): Config {
    if (!this.isOften(config)) return config
    if (meaning !== this.#meaning) {
      for (const name of this.#names.values()) this.#close(name)
      this.#names.clear()
      this.#meaning = meaning
    }
    const text = config.text as string
    let name = this.#names.get(text)
    if (name === undefined) this.#names.set(text, (name = `pg-quorum ${this.#names.size}`))
    return { ...config, name }
  }
}
