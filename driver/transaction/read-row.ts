/**
 * A strong read of one row (docs/protocol.md, section 5). The lead is looked at before it reads, as many others as it takes while it does: one message to each. Where that
 * does not settle it (the lead is behind, a row in doubt, a view), the answer is undefined, and the longer way is gone.
 */
import { leastRead } from '../protocol/dial.ts'
import type { LockRequest } from '../protocol/locks.ts'
import type { LeadSession, Look, Replica } from '../replica/replica.ts'
import { sleep } from '../runtime.ts'
import type { Cluster } from './cluster.ts'

/** After this the others are asked as well. */
const HURRY_MS = 30

export async function readRow<T>(cluster: Cluster, lead: LeadSession, request: LockRequest, work: () => Promise<T>): Promise<{ readonly result: T } | undefined> {
  const others = askOthers(cluster, lead.replica(), request)
  const mine = await lead.look(request).catch(() => null)
  const settled = others((o) => mine !== null && o.place === mine.place && o.version <= mine.version && o.whole <= mine.whole && o.everything <= mine.everything, mine?.write ?? 0)
  if (!mine) return undefined
  const result = await work()
  if (!(await settled)) return undefined
  if (cluster.seen) cluster.seen.learn((await lead.stripes([request])).stripes) // after it: it may have read more than the lead had when it was looked at
  return { result }
}

/** Asks at once, as many as are needed by what was heard last, and later more if that does not do. */
function askOthers(cluster: Cluster, lead: Replica, request: LockRequest): (agrees: (look: Look) => boolean, write: number) => Promise<boolean> {
  const waiting = cluster.replicas.filter((r) => r !== lead).sort((a, b) => Number(cluster.suspects.has(a)) - Number(cluster.suspects.has(b)))
  const looks: (Look | undefined)[] = []
  let open = 0
  let changed: () => void = () => undefined
  const ask = (): void => {
    const replica = waiting.shift()
    if (!replica) return
    open++
    void replica.look(request).catch(() => null).then((look) => {
      open--
      looks.push(look ?? undefined)
      changed()
    })
  }
  const least = (write: number): number => Math.max(cluster.dial.read, leastRead(cluster.replicas.length, write)) - 1
  for (let i = 0; i < least(cluster.floor); i++) ask()
  return (agrees, write) => new Promise((resolve) => {
    let over = false
    const end = (yes: boolean): void => {
      over = true
      changed = () => undefined
      resolve(yes)
    }
    changed = () => {
      if (over) return
      const said = looks.filter((l) => l !== undefined)
      const floor = Math.min(write, ...said.map((l) => l.write))
      const needed = least(floor)
      if (write === 0 || !said.every(agrees)) return end(false)
      if (said.length >= needed) {
        cluster.floor = floor
        return end(true)
      }
      for (let missing = needed - said.length - open; missing > 0 && waiting.length > 0; missing--) ask()
      if (open === 0 && waiting.length === 0) end(false)
    }
    changed()
    if (!over && waiting.length > 0) void sleep(HURRY_MS).then(() => { if (!over) while (waiting.length > 0) ask() })
  })
}
