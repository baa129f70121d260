/**
 * The members as one driver sees them: who they are, who answers, what this driver still owes them. Suspicion lives
 * here and only changes who is asked; the promise never rests on it. Work that nobody waits for (stragglers,
 * resolution, catch-up) has its owner here.
 */
import { noQuorum, QuorumError, sentenceOf } from '../errors.ts'
import { leastRead, quorumOf, type Dial } from '../protocol/dial.ts'
import { majority } from '../protocol/quorum.ts'
import type { Seen } from '../protocol/seen.ts'
import type { Doubt, Keep, Replica, Self } from '../replica/replica.ts'
import { newId, now_ms, sleep, within } from '../runtime.ts'
import { Brake } from './brake.ts'
import { Looks } from './looks.ts'

export interface Limits {
  /** How long a connection attempt may take. */
  connect_ms: number
  /** How long an internal call may take before it costs the socket. */
  call_ms: number
  /** How much one transaction may change, in bytes of its rows as text, old and new. */
  changeset_bytes: number
  /** How long a transaction queues for its locks. */
  lock_ms: number
  /** After this age an in-doubt transaction is resolved although its owner lives. */
  grace_ms: number
  /** How often each member is asked for its pulse. */
  pulse_ms: number
  /** The policy by which the sweep shortens the log; none: it does not. */
  keep?: Keep | undefined
}

/** Of two LSNs as PostgreSQL writes them. */
const isBelow = (lsn: string, other = '0/0'): boolean => position(lsn) < position(other)
const position = (lsn: string): bigint => lsn.split('/').reduce((high, part) => (high << 32n) + BigInt(`0x${part}`), 0n)

/** Where a member is, seen from this driver. weight: how many of the weaker reads it gets, 0 for none. */
export interface Place {
  readonly near: boolean
  readonly weight: number
}

/** Who waits so long for one member asks whether it is there. */
const LONG_MS = 75

/** More than ever are in doubt at once; who is forgotten only waits again. */
const MOST_DOUBTED = 10_000

export class Cluster {
  readonly owner = newId()
  readonly limits: Limits
  readonly replicas: readonly Replica[]
  readonly needed: number
  /** Members that missed a deadline or refused a connection; cleared by the next answer. */
  readonly suspects = new Set<Replica>()
  readonly lagging = new Set<Replica>()
  /** Members that take much longer to answer than others: they do not lead, unless they are asked to. */
  readonly slow = new Set<Replica>()
  /** gids of this driver that it is still seeing to: the sweep leaves them alone. */
  readonly live = new Set<string>()
  readonly problems = new Map<Replica, unknown>()
  /** Everything's version, by each member's last pulse. */
  readonly everything = new Map<Replica, number>()
  readonly looks = new Looks()
  readonly brake = new Brake()
  /** This driver's; a transaction or a read may have its own. */
  dial: Dial
  /** By the members' order; and who leads while it can. Neither changes what is safe. */
  places: readonly Place[] = []
  leader: Replica | undefined
  /** What the session of this driver has seen, once somebody asked to know. */
  seen: Seen | undefined
  /**
   * On how many members every write is, as it was heard when the members were last greeted: how many are asked
   * first. Whoever rests on it looks at what they answer.
   */
  floor: number
  name: string | undefined
  epoch = 0
  closed = false
  /** Somebody waits for this member: the sweep, where there is one, asks it now whether it answers at all. */
  hurry: (replica: Replica) => void = () => undefined
  readonly #tasks = new Set<Promise<unknown>>()
  #sequence = 0

  constructor(build: (cluster: Cluster) => readonly Replica[], limits: Limits, dial?: (members: number) => Dial) {
    this.limits = limits
    this.replicas = build(this)
    const members = this.replicas.length
    this.needed = this.floor = majority(members)
    this.dial = dial?.(members) ?? { ...quorumOf('majority', members), recovering: 'refuse' }
  }

  /** The gid but for its digest. A sequence number is never used twice, nor is an owner's name. */
  prefix(): string {
    return `quorum_${this.name ?? ''}_${this.epoch}_${this.owner}_${(++this.#sequence).toString(36)}_`
  }

  /** Is the server at this place the member it should be? */
  readonly check = (self: Self, index: number): void => {
    const name = this.replicas[index]?.name
    const refuse = (why: string): never => {
      throw new QuorumError(`${name}: ${why}`, { code: '08004', outcome: 'not-committed', retryable: false })
    }
    if (self.system_identifier !== self.actual_identifier)
      refuse(
        'is a restored dump or copy of another replica ' +
          '(its system identifier is not the one it was initialised with); re-initialise it as an empty replica',
      )
    if (self.building) refuse('is being built (`pg-quorum clone` completes it); it takes no part yet')
    if (self.members !== this.replicas.length)
      refuse(`belongs to a cluster of ${self.members} members, but ${this.replicas.length} replicas are configured`)
    this.#names.set(index, self.cluster)
    // A name is the cluster's when most members bear it: one stranger that answers first must not turn away the others.
    if ([...this.#names.values()].filter((n) => n === self.cluster).length >= this.needed) this.name = self.cluster
    if (this.name !== undefined && self.cluster !== this.name)
      refuse(`belongs to another cluster (${self.cluster}, not ${this.name})`)
    const twin = this.#seen.get(`${self.cluster}/${self.member}`)
    if (twin !== undefined && twin !== index)
      refuse(
        `is member ${self.member}, and so is ${this.replicas[twin]?.name}: ` +
          'one is a copy of the other, or the same url is listed twice',
      )
    this.#seen.set(`${self.cluster}/${self.member}`, index)
    this.#numbers.set(index, self.member)
    this.epoch = Math.max(this.epoch, self.epoch)
  }
  readonly #seen = new Map<string, number>()
  readonly #numbers = new Map<number, number>()
  readonly #names = new Map<number, string>()

  /**
   * The one fixed order in which everyone queues: by member number, not by how this driver's urls happen to be
   * listed.
   */
  inOrder(): Replica[] {
    return [...this.replicas].sort(
      (a, b) =>
        (this.#numbers.get(a.index) ?? this.replicas.length + 1) -
        (this.#numbers.get(b.index) ?? this.replicas.length + 1),
    )
  }

  /**
   * Asks all members at once and goes on as soon as a majority has answered (section 4, step 1); once it is known
   * who they are, as soon as there are enough to read. Whoever asks meanwhile is given the same answer: clients
   * that connect together greet the members once.
   */
  assemble(): Promise<readonly Replica[]> {
    return (this.#assembling ??= this.#assemble().finally(() => {
      this.#assembling = undefined
    }))
  }
  #assembling: Promise<readonly Replica[]> | undefined

  async #assemble(): Promise<readonly Replica[]> {
    const hellos = new Map(this.replicas.map((replica) => [replica, within(this.limits.connect_ms, replica.hello())]))
    const answered: Replica[] = []
    const floors: number[] = []
    const enough = (): number =>
      this.#introduced
        ? Math.min(this.needed, leastRead(this.replicas.length, floors.length > 0 ? Math.min(...floors) : 0))
        : this.needed
    await new Promise<void>((resolve, reject) => {
      let open = this.replicas.length
      const failures: string[] = []
      for (const [replica, hello] of hellos) {
        hello
          .then((self) => {
            answered.push(replica)
            floors.push(self.write || this.needed)
            this.floor = Math.min(...floors)
            this.trust(replica)
            if (
              this.name !== undefined &&
              answered.filter((r) => this.#names.get(r.index) === this.name).length >= enough()
            )
              resolve()
          })
          .catch((error: unknown) => {
            this.suspect(replica, error)
            failures.push(`${replica.name}: ${sentenceOf(error)}`)
          })
          .finally(() => {
            if (--open === 0)
              reject(
                // no effect once it is resolved
                noQuorum(
                  `${answered.length} of ${this.replicas.length} replicas ` +
                    `answered${answered.length > 0 ? ` (${answered.map((r) => r.name).join(', ')})` : ''}, ` +
                    `${enough()} are needed to begin, ${this.dial.write} to write, ` +
                    `${this.dial.read} to read. ${failures.join('; ')}`,
                  this.problems.get(replica),
                ),
              )
          })
      }
    })
    // a moment for it: the clients of a pool shall share a lead, session-level locks and all
    const first = this.preferred()
    if (!answered.includes(first))
      await within(this.limits.pulse_ms, Promise.resolve(hellos.get(first)), () => undefined).catch(() => undefined)
    const members = answered.filter((r) => this.#names.get(r.index) === this.name)
    // Twice, so that each hears all; then the sweep does it. One that froze just now must not hold up the start.
    await (this.#introduced ??= within(
      this.limits.connect_ms,
      this.tellFlushed(members).then(() => this.tellFlushed(members)),
      () => undefined,
    ))
    return members
  }

  /**
   * Passes on how far each member's log was seen flushed (schema/flushed.sql). Before the first statement and every
   * few seconds; what happens in between is not seen.
   */
  async tellFlushed(among: readonly Replica[]): Promise<void> {
    await Promise.all(
      among.map(async (replica) => {
        for (const [who, lsn] of Object.entries(
          await replica.flushed(Object.fromEntries(this.#flushed)).catch(() => ({})),
        )) {
          if (!isBelow(lsn, this.#flushed.get(who))) this.#flushed.set(who, lsn)
        }
      }),
    )
  }
  readonly #flushed = new Map<string, string>()
  #introduced: Promise<void> | undefined

  /**
   * Is it ours to end? At once if its owner is gone; if it lives, once we have seen it in doubt for a while. By our
   * own clock: the server's may have been set back since it was prepared (sim seed 8385).
   */
  orphaned({ gid, owner_alive }: Doubt): boolean {
    if (this.live.has(gid)) return false
    if (gid.split('_')[3] === this.owner) return true // left there when its connection broke
    const now = now_ms()
    const since = this.#doubted.get(gid) ?? now
    if (this.#doubted.size > MOST_DOUBTED) this.#doubted.clear()
    this.#doubted.set(gid, since)
    return !owner_alive || now - since > this.limits.grace_ms
  }
  readonly #doubted = new Map<string, number>()

  suspect(replica: Replica, error: unknown): void {
    const news = !this.suspects.has(replica)
    this.suspects.add(replica)
    this.problems.set(replica, error)
    if (news) for (const hear of [...this.#suspicions]) hear()
  }
  readonly #suspicions = new Set<() => void>()

  /** Called at each new suspicion, until what it returns is called. */
  onSuspicion(hear: () => void): () => void {
    this.#suspicions.add(hear)
    return () => void this.#suspicions.delete(hear)
  }

  /**
   * Waits for what this member is asked from now on, as long as it is not suspected; one that is suspected already is
   * asked all the same, and has its time. The work itself goes on and needs an owner.
   */
  unlessSuspected(replica: Replica): <T>(work: Promise<T>) => Promise<T> {
    const already = this.suspects.has(replica)
    return async (work) => {
      let forget = (): void => undefined
      let over = false
      const suspected = new Promise<never>((_, reject) => {
        const look = (): void => {
          if (!already && this.suspects.has(replica)) reject(new Error(sentenceOf(this.problems.get(replica))))
        }
        forget = this.onSuspicion(look)
        look()
      })
      void sleep(LONG_MS).then(() => {
        if (!over) this.hurry(replica)
      })
      try {
        return await Promise.race([work, suspected])
      } finally {
        over = true
        forget()
      }
    }
  }

  trust(replica: Replica): void {
    this.suspects.delete(replica)
    this.problems.delete(replica)
  }

  /** A member whose links answer may still take no new connection: another leads for a while. */
  shun(replica: Replica, error: unknown): void {
    this.suspect(replica, error)
    this.#shunned.set(replica, now_ms() + this.limits.grace_ms)
  }
  readonly #shunned = new Map<Replica, number>()

  placeOf(replica: Replica): Place {
    return this.places[replica.index] ?? { near: true, weight: 1 }
  }

  /** The lead of choice: the first member that is neither suspected nor behind, so that drivers tend to meet on one. */
  preferred(candidates: readonly Replica[] = this.replicas): Replica {
    const far = (r: Replica): number => (r === this.leader ? 0 : this.placeOf(r).near ? 1 : 2)
    const among = [...candidates].sort((a, b) => far(a) - far(b))
    const doubts: ((r: Replica) => boolean)[] = [
      (r) => this.slow.has(r) && r !== this.leader,
      (r) => (this.#shunned.get(r) ?? 0) > now_ms(),
      (r) => this.lagging.has(r),
      (r) => this.suspects.has(r),
    ]
    // The mildest doubt is dropped first.
    const best =
      doubts
        .map((_, i) => among.find((r) => !doubts.slice(i).some((doubted) => doubted(r))))
        .find((r) => r !== undefined) ??
      among[0] ??
      this.replicas[0]
    if (!best) throw noQuorum('no replicas are configured')
    return best
  }

  /** Work with an owner but without a waiter. close() waits for it. */
  background(work: Promise<unknown>): void {
    const task: Promise<unknown> = work.catch(() => undefined).finally(() => this.#tasks.delete(task))
    this.#tasks.add(task)
  }

  async close(): Promise<void> {
    this.closed = true
    await within(3 * this.limits.call_ms, Promise.all(this.#tasks), () => [])
    await within(2000, Promise.all(this.replicas.map((r) => r.close())), () => [])
  }
}
