/**
 * `pg-quorum catch-up`: brings a replica that was away up to the others. Transactions in doubt are finished first,
 * since they may be what it waits for. Drivers in use do this by themselves; this is for watching it happen, or
 * when nobody is connected. Every changeset is its own commit, so it may be interrupted and started again at will.
 */
import type { Command } from 'commander'
import { catchUp } from '../repair/catch-up.ts'
import type { Replica } from '../replica/replica.ts'
import { now_ms, sleep } from '../runtime.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { doubtsOf, finishDoubts, withCluster } from './doubts.ts'
import { meter, type Meter } from './progress.ts'
import { pick, survey } from './survey.ts'
import {
  count,
  dress,
  duration,
  EXIT,
  inWords,
  onInterruption,
  say,
  sayJson,
  urlsOf,
  wholeNumber,
  type Common,
} from './terminal.ts'

const EXAMPLE = `$ pg-quorum catch-up 10.0.0.2:5432
10.0.0.2:5432/app [########------------] 43 %  about 5200 left, 430/s, 12 s
10.0.0.2:5432/app: current, 9120 changesets brought over in 21 s`

interface Done {
  readonly replica: string
  readonly brought: number
  readonly seconds: number
  readonly error: string | null
}

export function addCatchUp(program: Command): void {
  dress(
    program
      .command('catch-up')
      .description('bring replicas that are behind up to the others; may be interrupted and repeated')
      .argument('[replica]', 'host:port, or the member number that `status` shows; default: all that are behind')
      .option('--throttle <rate>', 'bring at most so many changesets a second', wholeNumber(1, 1_000_000)),
    EXAMPLE,
  ).action(async (which: string | undefined, options: Common & { throttle?: number }) => {
    const urls = urlsOf(options.replicas ?? [])
    const found = await survey(urls)
    const targets = which === undefined ? found.replicas.filter((r) => r.state === 'behind') : [pick(found, which)]
    const barred = targets.find((r) => r.state !== 'current' && r.state !== 'behind')
    if (barred)
      throw new Error(`${barred.name} cannot be caught up, it is ${barred.state.replaceAll('-', ' ')}: ${barred.error}`)
    const speak = options.json ? (): void => undefined : say
    let bar: Meter | undefined
    onInterruption(() => {
      bar?.clear()
      process.stderr.write('stopped; the same command goes on from here\n')
    })
    const report = await withCluster(urls, found, async (cluster) => {
      const doubts = await finishDoubts(cluster, doubtsOf(found))
      const finished = doubts.filter((d) => typeof d.resolution === 'string' && d.resolution !== 'left').length
      if (finished > 0) speak(`${count(finished, 'transaction')} in doubt finished first`)
      const done: Done[] = []
      for (const target of targets) {
        const replica = cluster.replicas[found.replicas.indexOf(target)]
        if (!replica) continue
        bar = options.json ? undefined : meter(target.name)
        const from = now_ms()
        let brought = 0
        let error: string | null = null
        const watch = watchDistance(cluster, replica, target.behind, bar)
        try {
          await catchUp(cluster, replica, {
            to: 'in step',
            ...(options.throttle === undefined ? {} : { rate: options.throttle }),
            onProgress: (n) => (brought = n),
          })
        } catch (failure) {
          error = inWords(failure)
        }
        watch.stop()
        const seconds = Math.round((now_ms() - from) / 100) / 10
        done.push({ replica: target.name, brought, seconds, error })
        speak(
          `${target.name}: ${
            error === null
              ? `current, ${count(brought, 'changeset')} brought over in ${duration(seconds * 1000)}`
              : `stopped after ${count(brought, 'changeset')}: ${error}`
          }`,
        )
      }
      return { in_doubt: doubts, replicas: done }
    })
    if (options.json) sayJson(report)
    else if (targets.length === 0)
      say(
        `No replica that answers is behind${
          found.usable < found.replicas.length
            ? `; ${found.replicas.length - found.usable} cannot be used, see \`pg-quorum status\``
            : ''
        }.`,
      )
    process.exitCode = report.replicas.some((d) => d.error !== null) ? EXIT.failed : EXIT.fine
  })
}

/**
 * How far the target is from the others, while they move on and other drivers may bring it forward too: what it
 * lacks in versions, said in changesets by what the survey counted.
 */
function watchDistance(cluster: Cluster, target: Replica, behind: number, bar: Meter | undefined): { stop(): void } {
  let stopped = false
  const distance = async (): Promise<number> => {
    const here = new Map((await target.versions()).map(([t, n, v]) => [`${t}/${n}`, v]))
    const lacks = await Promise.all(
      cluster.replicas
        .filter((r) => r !== target && !cluster.suspects.has(r))
        .map(async (r) =>
          (await r.versions()).reduce((sum, [t, n, v]) => sum + Math.max(0, v - (here.get(`${t}/${n}`) ?? 0)), 0),
        ),
    )
    return Math.max(0, ...lacks)
  }
  const watch = async (): Promise<void> => {
    const first = Math.max(1, await distance())
    const began = now_ms()
    while (!stopped) {
      await sleep(500)
      const now = await distance()
      const left = Math.round((now / first) * behind)
      const pace = (first - now) / (now_ms() - began)
      if (!stopped)
        bar?.show({
          done: first - now,
          total: first,
          words: `about ${left} left, ${
            pace > 0
              ? `${Math.round((pace * 1000 * behind) / first)}/s, ${duration(now / pace)}`
              : 'the writers are faster just now'
          }`,
        })
    }
  }
  if (bar) watch().catch(() => undefined) // what stops the work is said by the work
  return {
    stop: () => {
      stopped = true
      bar?.clear()
    },
  }
}
