/**
 * The columns of the matrix: what can be done to an owner that stands at a step, to its lead, to a follower, and to
 * the wires between. Each says how it knows that it struck: a fault that hit nothing proves nothing.
 */
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { EmbeddedServer } from '../../driver/embedded/embedded.ts'
import type { Step } from '../../driver/runtime.ts'
import type { Direction, Proxy, Rule } from './proxy.ts'

/** Here the owner is its own resolver: its COMMIT was cut off at the lead, and only one follower has accepted. */
export const RESOLVER: Step[] = ['resolving', 'promised', 'decided']

export interface Scene {
  servers: EmbeddedServer[]
  proxies: Proxy[]
  ownerPid: number
  step: Step
  lead: number
  follower: number
  other: number
}
export interface Strike {
  struck(): boolean
  /** Undoes it, if it can be undone. */
  heal?(): Promise<void> | void
  /** Servers that nobody can ask while it lasts. */
  down?: number
  destroyed?: number
  /** How long it lasts at least; longer, if the owner has not answered. */
  hold_ms?: number
  owner?: 'killed' | 'frozen'
}
export interface Fault {
  name: string
  applies?(step: Step): boolean
  strike(scene: Scene): Promise<Strike> | Strike
}

const stopped = (pid: number | undefined): boolean =>
  pid !== undefined && /\) T /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
type Who = 'lead' | 'follower'

const kill = (who: Who): Fault => ({
  name: `${who}-kill`,
  async strike(s) {
    const server = s.servers[s[who]]!
    const ran = server.pid !== undefined
    await server.kill()
    return { struck: () => ran && server.pid === undefined, down: s[who], heal: () => server.start() }
  },
})
const stop = (who: Who): Fault => ({
  name: `${who}-stop`,
  strike(s) {
    const server = s.servers[s[who]]!
    server.freeze()
    return { struck: () => stopped(server.pid), down: s[who], hold_ms: 1500, heal: () => server.thaw() }
  },
})
const reset = (who: Who): Fault => ({
  name: `${who}-reset`,
  strike(s) {
    const proxy = s.proxies[s[who]]!
    const open = proxy.connections
    proxy.resetAll()
    return { struck: () => open > 0 }
  },
})
const cut = (who: Who, direction: Direction | 'both'): Fault => ({
  name: `${who}-cut-${direction.replace('to-', '')}`,
  strike(s) {
    const proxy = s.proxies[s[who]]!
    const before = proxy.lost
    proxy.cut(direction)
    return { struck: () => proxy.lost > before, hold_ms: 1500 }
  },
})
const destroy = (who: Who): Fault => ({
  name: `${who}-destroy`,
  async strike(s) {
    const server = s.servers[s[who]]!
    const was = existsSync(server.dir)
    await server.kill()
    await server.destroy()
    return { struck: () => was && !existsSync(server.dir), down: s[who], destroyed: s[who] }
  },
})
/**
 * A named message on one wire. No rule for a step: that message has gone by then, or is under way at a time nobody
 * knows.
 */
const message = (name: string, rule: (s: Scene) => [server: number, rule: Rule] | undefined): Fault => ({
  name,
  applies: (step) =>
    rule({ servers: [], proxies: [], ownerPid: 0, step, lead: 0, follower: 1, other: 2 }) !== undefined,
  strike(s) {
    const [server, it] = rule(s)!
    const active = s.proxies[server]!.add({ nth: 1, ...it })
    return { struck: () => active.hits === 1 }
  },
})

const BEFORE_SENT: Step[] = ['locked', 'began', 'worked', 'sealed']
const BEFORE_COMMIT: Step[] = [...BEFORE_SENT, 'accept-sent', 'accepted', 'lead-committing']
const reply = (tag: RegExp): Rule => ({ direction: 'to-client', message: 'C', match: tag, action: 'lose-reply' })
/** By its text, not by its tag: what catches a member up has COMMITs too. */
const unanswered = (match: RegExp): Rule => ({ direction: 'to-server', match, action: 'lose-reply' })
const torn = (match: RegExp): Rule => ({ direction: 'to-server', match, action: 'tear' })

export const FAULTS: Fault[] = [
  { name: 'none', strike: () => ({ struck: () => true }) },
  {
    name: 'owner-kill',
    strike(s) {
      process.kill(s.ownerPid, 'SIGKILL')
      return { struck: () => true, owner: 'killed' } // and the cell waits for its exit by this signal
    },
  },
  kill('lead'),
  kill('follower'),
  {
    name: 'owner-stop',
    async strike(s) {
      process.kill(s.ownerPid, 'SIGSTOP')
      await sleep(5)
      const still = stopped(s.ownerPid)
      // Longer than the 3 s after which others decide for an owner that lives.
      return {
        struck: () => still,
        hold_ms: 4500,
        owner: 'frozen',
        heal: () => void process.kill(s.ownerPid, 'SIGCONT'),
      }
    },
  },
  stop('lead'),
  stop('follower'),
  reset('lead'),
  reset('follower'),
  cut('lead', 'to-server'),
  cut('lead', 'to-client'),
  cut('follower', 'to-server'),
  cut('follower', 'to-client'),
  cut('follower', 'both'),
  message('prepare-reply', (s) =>
    BEFORE_SENT.includes(s.step) ? [s.follower, reply(/^PREPARE TRANSACTION$/)] : undefined,
  ),
  message('commit-reply', (s) =>
    BEFORE_COMMIT.includes(s.step)
      ? [s.lead, unanswered(/^COMMIT$/)]
      : RESOLVER.includes(s.step)
        ? [s.lead, unanswered(/^(COMMIT|ROLLBACK) PREPARED/)]
        : undefined,
  ),
  message('torn', (s) => {
    const next: Partial<Record<Step, [number, Rule]>> = {
      locked: [s.lead, torn(/^BEGIN$/)],
      began: [s.lead, torn(/UPDATE accounts/)],
      worked: [s.lead, torn(/quorum\.seal/)],
      sealed: [s.follower, torn(/PREPARE TRANSACTION/)],
      'accept-sent': [s.lead, torn(/^COMMIT$/)],
      accepted: [s.lead, torn(/^COMMIT$/)],
      'lead-committing': [s.lead, torn(/^COMMIT$/)],
      'lead-committed': [s.follower, torn(/^COMMIT PREPARED/)],
      resolving: [s.follower, torn(/quorum\.evidence/)],
      promised: [s.other, torn(/quorum\.promise/)],
      decided: [s.follower, torn(/^(COMMIT|ROLLBACK) PREPARED/)],
    }
    return next[s.step]
  }),
  destroy('follower'),
  destroy('lead'),
]
