/**
 * What a scenario may do to three members, real or simulated, and how its findings are written down so that two
 * runs can be compared.
 */
import type { LeadSession, Replica } from '../../driver/replica/replica.ts'
import { codeOf } from '../../driver/errors.ts'

export interface User extends LeadSession {
  begin(isolation?: 'read committed' | 'repeatable read'): Promise<void>
  append(k: string, v: string): Promise<void>
  insertOnce(k: string, v: string): Promise<void>
  read(k: string): Promise<string | null>
  commit(): Promise<string>
}
export interface Harness {
  readonly replicas: readonly Replica[]
  /** A user's connection to this member. */
  user(member: number): Promise<User>
  crash(member: number): Promise<void>
  /** Changes a row behind the driver. */
  tamper(member: number, k: string, v: string): Promise<void>
  settle(ms: number): Promise<void>
}

/**
 * Notes with what differs by chance made equal: gids and digests by their first mention, sums of hashes likewise,
 * ages and names dropped.
 */
export class Notes {
  readonly lines: string[] = []
  readonly #names = new Map<string, string>()

  add(what: string, value: unknown): void {
    this.lines.push(`${what}: ${JSON.stringify(this.#plain(value))}`)
  }

  /** What became of it: the value, or the error's code. */
  async tell(what: string, work: Promise<unknown>): Promise<void> {
    try {
      this.add(what, await work)
    } catch (error) {
      this.add(what, { error: codeOf(error) || 'no code' })
    }
  }

  #plain(value: unknown): unknown {
    if (typeof value === 'string' && /^quorum_/.test(value)) return this.#name('G', value)
    if (Array.isArray(value)) return value.map((v) => this.#plain(v))
    if (value instanceof Error) return codeOf(value) || 'error'
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(
      Object.entries(value)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .filter(([k]) => k !== 'age_ms' && k !== 'body')
        .map(([k, v]) => [k, (k === 'c' || k === 'ms') && v !== '0' ? this.#name(k, String(v)) : this.#plain(v)]),
    )
  }

  #name(kind: string, value: string): string {
    let name = this.#names.get(`${kind}${value}`)
    if (!name)
      this.#names.set(
        `${kind}${value}`,
        (name = `${kind}${[...this.#names.values()].filter((n) => n.startsWith(kind)).length + 1}`),
      )
    return name
  }
}
