/**
 * What reads of one row ask the members (docs/protocol.md, section 5): reads that wait at the same time ask one
 * member in one message. A question is always sent after the read that asks it has begun: who comes while one is
 * under way waits for the next. And what each member was seen to have: a lead that was seen to have what the
 * members say, before it read, need not be asked first.
 */
import { leastRead } from '../protocol/dial.ts'
import type { Stripes } from '../protocol/seen.ts'
import type { Look, Replica, Row } from '../replica/replica.ts'
import { after, moment } from '../runtime.ts'
import type { Cluster } from './cluster.ts'

/** After this the others are asked as well. */
const HURRY_MS = 30
const PATIENCE_MS = 200
/** In one message; the rest is the next. */
const MOST = 256

type Told = { readonly look: Look; readonly life: number } | undefined

/** The questions to one member, one message at a time; and what it was seen to have. */
class Questions {
  readonly #replica: Replica
  #waiting: { readonly row: Row; readonly tell: (told: Told) => void; readonly again: boolean }[] = []
  #asking = false
  readonly #tables = new Map<string, Map<number, Sight>>()
  #life = 0

  constructor(replica: Replica) {
    this.#replica = replica
  }

  /** undefined: no answer, or it stays in doubt. */
  ask(row: Row, tell: (told: Told) => void, again = false): void {
    this.#waiting.push({ row, tell, again })
    if (!this.#asking) void this.#work()
  }

  async #work(): Promise<void> {
    this.#asking = true
    await undefined // those that begin in the same breath come along
    while (this.#waiting.length > 0) {
      const asked = this.#waiting.splice(0, MOST)
      const { life, looks } = await this.#replica
        .looks(asked.map(({ row }) => row))
        .catch(() => ({ life: 0, looks: [] }))
      // it may have crashed, and forgotten what it had brought over without waiting for its disk
      if (life !== this.#life) this.#tables.clear()
      this.#life = life
      for (const [i, { row, tell, again }] of asked.entries()) {
        const look = looks[i]
        if (look === undefined) tell(undefined)
        else if (look.version >= 0) {
          this.learn(row.t, look.n, look.version)
          this.learn(row.t, -1, look.whole)
          this.learn('*', -1, look.everything)
          tell({ look, life })
        } else if (again) tell(undefined)
        // It mostly ends by itself. Others do not wait for it.
        else
          void this.#replica.settled(row, PATIENCE_MS).then(
            () => this.ask(row, tell, true),
            () => tell(undefined),
          )
      }
    }
    this.#asking = false
  }

  learn(t: string, n: number, version: number): void {
    let table = this.#tables.get(t)
    if (!table) this.#tables.set(t, (table = new Map<number, Sight>()))
    const sight = table.get(n)
    if (!sight || sight.version !== version) table.set(n, { version, since: moment() })
  }

  had({ t, n, version, whole, everything, life }: Stand, until: number): boolean {
    if (life !== this.#life) return false
    const has = (sight: Sight | undefined, wanted: number): boolean =>
      sight !== undefined && sight.version >= wanted && sight.since < until
    const table = this.#tables.get(t)
    return has(table?.get(n), version) && has(table?.get(-1), whole) && has(this.#tables.get('*')?.get(-1), everything)
  }
}

/** A version that a member was seen to have, by runtime's moments. */
interface Sight {
  readonly version: number
  readonly since: number
}

export class Looks {
  /** Reads that are under way. */
  reading = 0
  readonly #members = new Map<Replica, Questions>()

  of(replica: Replica): Questions {
    let questions = this.#members.get(replica)
    if (!questions) this.#members.set(replica, (questions = new Questions(replica)))
    return questions
  }

  /** It has these, from before now, and for good. */
  learn(replica: Replica, stripes: Stripes): void {
    const questions = this.of(replica)
    for (const [t, n, version] of stripes) questions.learn(t, n, version)
  }

  /**
   * Was the lead seen to have all of this before that moment, and has it not crashed since? Its look came over the
   * connection over which it was seen, after the connection was opened that has read: between them they would not
   * have outlived a crash.
   */
  had(lead: Replica, stand: Stand, until: number): boolean {
    return this.of(lead).had(stand, until)
  }
}

/** A stripe as those have it that have most of it. life: of the lead's look. */
export interface Stand {
  readonly t: string
  readonly n: number
  readonly version: number
  readonly whole: number
  readonly everything: number
  readonly life: number
}

/**
 * R members' word, the lead's among them, asked from now on: nothing is in doubt there, and this is how far they
 * are. mine: the lead's, if it is asked otherwise. Never rejects; undefined: they do not say so.
 */
export function standOf(
  cluster: Cluster,
  lead: Replica,
  row: Row,
  mine?: Promise<Look | undefined>,
): Promise<Stand | undefined> {
  return new Promise((resolve) => {
    const { replicas, looks, suspects } = cluster
    let stand: Stand | undefined
    let life: number | undefined
    let floor = Infinity
    let calm: () => void = () => undefined
    let [said, open, asked, over] = [0, 0, 0, false]
    const end = (word: Stand | undefined): void => {
      over = true
      calm()
      resolve(word)
    }
    const least = (write: number): number => Math.max(cluster.dial.read, leastRead(replicas.length, write))
    const waiting = replicas.length > 1 ? replicas.filter((r) => r !== lead && !suspects.has(r)) : []
    if (suspects.size > 0) waiting.push(...replicas.filter((r) => r !== lead && suspects.has(r)))
    const ask = (replica: Replica): void => {
      open++
      looks.of(replica).ask(row, (told) => hear(replica, told))
    }
    const more = (): void => {
      const replica = waiting[asked]
      if (!replica) return
      asked++
      ask(replica)
    }
    const hear = (replica: Replica, told: Told): void => {
      open--
      if (over) return
      if (!told && replica === lead) return end(undefined)
      if (told) {
        const { n, version, whole, everything, write } = told.look
        if (stand && stand.n !== n) return end(undefined)
        if (replica === lead) life = told.life
        said++
        floor = Math.min(floor, write)
        stand = {
          t: row.t,
          n,
          version: Math.max(version, stand?.version ?? 0),
          whole: Math.max(whole, stand?.whole ?? 0),
          everything: Math.max(everything, stand?.everything ?? 0),
          life: 0,
        }
      }
      const needed = said > 0 ? least(floor) : 1
      if (stand && life !== undefined && said >= needed) {
        cluster.floor = floor
        return end({ ...stand, life })
      }
      for (let missing = needed - said - open; missing > 0 && asked < waiting.length; missing--) more()
      if (open === 0) end(undefined)
    }
    if (mine) {
      open++
      void mine.then(
        (look) => hear(lead, look && look.version >= 0 ? { look, life: 0 } : undefined),
        () => hear(lead, undefined),
      )
    } else ask(lead)
    for (let others = least(cluster.floor) - 1; others > 0; others--) more()
    if (asked < waiting.length)
      calm = after(HURRY_MS, () => {
        while (!over && asked < waiting.length) more()
      })
  })
}
