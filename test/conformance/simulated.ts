import { replaceHost } from '../../driver/runtime.ts'
import { Link } from '../sim/network.ts'
import { SimLead, SimReplica } from '../sim/replica.ts'
import { Server } from '../sim/server.ts'
import { Actor, World } from '../sim/world.ts'
import type { Harness, User } from './harness.ts'

class SimUser extends SimLead implements User {
  begin = (isolation: 'read committed' | 'repeatable read' = 'read committed'): Promise<void> =>
    this.run('begin', isolation)
  append = (k: string, v: string): Promise<void> => this.run('append', 'public.lists', k, v)
  insertOnce = (k: string, v: string): Promise<void> => this.run('insert', 'public.once', k, v)
  read = (k: string): Promise<string | null> => this.run('read', 'public.lists', k)
  commit = (): Promise<string> => this.run('commit')
}

/** The world runs while the scenario waits. */
export async function simulated(scenario: (h: Harness) => Promise<void>): Promise<void> {
  const world = new World(1)
  const client = new Actor('scenario')
  const servers = [0, 1, 2].map(
    (i) => new Server(world, i, { committed: () => undefined, rolledBack: () => undefined }),
  )
  const links = servers.map(() => new Link(world))
  const replicas = servers.map(
    (server, i) =>
      new SimReplica({
        world,
        server,
        members: 3,
        link: links[i]!,
        client,
        connectMs: 1000,
        callMs: 4000,
        check: () => undefined,
      }),
  )
  world.install()
  let over = false
  const pump = (async () => {
    while (!over) {
      await world.run(() => over, Infinity)
      await new Promise(setImmediate)
    }
  })()
  try {
    await scenario({
      replicas,
      user: async (member) => new SimUser(replicas[member]!, await replicas[member]!.connect()),
      crash: async (member) => {
        servers[member]!.crash()
        await world.sleep(10, client)
        servers[member]!.start()
      },
      tamper: (member, k, v) => {
        const effects = { rows: [{ t: 'public.lists', k, v }] }
        servers[member]!.wal.push({ kind: 'commit', effects })
        servers[member]!.apply({ kind: 'commit', effects })
        return Promise.resolve()
      },
      settle: (ms) => world.sleep(ms, client),
    })
  } finally {
    over = true
    await pump
    replaceHost()
  }
}
