/**
 * `pg-quorum init`: makes N PostgreSQL servers one cluster. Idempotent: run again after an upgrade, or when unsure.
 * It is the one command that needs all servers, because it also checks that they are equal before the first write.
 */
import type { Command } from 'commander'
import { replicaConfigs } from '../config.ts'
import { majority } from '../protocol/quorum.ts'
import { nameOf } from '../replica/address.ts'
import { init } from '../schema/install.ts'
import { adopt } from './adopting.ts'
import { confirm } from './consent.ts'
import { meter } from './progress.ts'
import {
  count,
  dress,
  fitted,
  onInterruption,
  say,
  sayJson,
  size,
  UsageError,
  urlsOf,
  wholeNumber,
  type Common,
} from './terminal.ts'

const EXAMPLE = `$ pg-quorum init --role myapp postgres://postgres@10.0.0.1/app \\
    postgres://postgres@10.0.0.2/app postgres://postgres@10.0.0.3/app
10.0.0.1:5432/app  member 1  initialised
10.0.0.2:5432/app  member 2  initialised
10.0.0.3:5432/app  member 3  initialised
Cluster 1f0c… of 3 replicas: writes go on while 2 of them live.

A database that is in use: one of the servers has it, the others are empty.
$ pg-quorum init --from 10.0.0.1:5432 postgres://… postgres://… postgres://…`

type Given = Common & { role?: string[]; from?: string; yes?: true; dryRun?: true; jobs: number; pgDump?: string }

export function addInit(program: Command): void {
  dress(
    program
      .command('init')
      .description(
        'make the servers one cluster, as a superuser: check them, install the schema; a second run renews it',
      )
      .option(
        '--role <name...>',
        'roles that applications and migrations connect as; they\nneed not be superusers. May be added later',
      )
      .option(
        '--from <host:port>',
        'one of the servers, which has tables and rows; the\nothers are built from it. ' +
          'Stopped, the same command\ngoes on',
      )
      .option('--dry-run', 'with --from: look, rehearse, and change nothing')
      .option('--yes', 'with --from: do not ask')
      .option('--jobs <count>', 'with --from: tables copied at once', wholeNumber(1, 64), 2)
      .option('--pg-dump <path>', 'with --from: the pg_dump for the schema; default: the\none in PATH')
      .argument('[urls...]', 'the servers; default: --replicas, then PG_QUORUM_REPLICAS'),
    EXAMPLE,
  ).action(async (given: string[], options: Given) => {
    const urls = urlsOf(given.length > 0 ? given : (options.replicas ?? []))
    if (options.from !== undefined) return fromOne(urls, options.from, options)
    if (options.yes || options.dryRun || options.pgDump !== undefined)
      throw new UsageError('--yes, --dry-run and --pg-dump are for --from')
    const configs = replicaConfigs({ replicas: urls })
    const report = await init(
      configs.map((c) => ({ query_timeout: 60_000, ...c })),
      configs.map(nameOf),
      options.role,
    )
    if (options.json) return sayJson(report)
    const width = Math.max(...report.members.map((m) => m.name.length))
    for (const m of report.members)
      say(
        `${m.name.padEnd(width)}  member ${m.member}  ` +
          `${m.created ? 'initialised' : 'was initialised already, renewed'}` +
          `${m.building ? `; it takes no part before \`pg-quorum clone ${m.name.split('/')[0]}\` has built it` : ''}`,
      )
    const n = report.members.length
    say(
      `Cluster ${report.cluster} of ${count(n, 'replica')}: ` +
        `writes go on while ${majority(n)} of them ${majority(n) === 1 ? 'lives' : 'live'}.`,
    )
  })
}

async function fromOne(urls: readonly string[], from: string, options: Given): Promise<void> {
  if (urls.length < 2) throw new UsageError('--from needs the urls of all servers, the source and the empty ones')
  const bar = options.json ? undefined : meter('init')
  const speak = (line: string): void => {
    bar?.clear()
    if (!options.json) fitted(line, 2).forEach(say)
  }
  onInterruption(() => {
    bar?.clear()
    process.stderr.write('stopped; the same command goes on\n')
  })
  const done = await adopt({
    ...options,
    urls,
    from,
    roles: options.role,
    tell: speak,
    show: (name, p) =>
      bar?.show({
        done: p.bytes,
        total: Math.max(p.ofBytes, p.bytes),
        words: `${name.split('/')[0]}: ${p.tables} of ${p.ofTables} tables`,
      }),
    consent: async (source, found) => {
      speak(
        `${source} has ${count(found.tables, 'table')}, ${size(found.bytes)}. ` +
          `${urls.length === 2 ? 'The other server gets' : `The ${urls.length - 1} others get`} a copy. ` +
          `From the moment of installation ${source} refuses whoever writes without the driver: ` +
          'stop the old application now.',
      )
      return confirm('Go on?', options)
    },
  })
  if (options.json) return sayJson({ ...done, dry_run: options.dryRun ?? false })
  if (!done.done)
    return speak(
      options.dryRun
        ? `Nothing stands against it. ${done.source} would be member 1; nothing was changed.`
        : 'Nothing was changed.',
    )
  for (const m of done.members) say(`${m.name}  member ${m.member}`)
  speak(
    `Cluster ${done.cluster} of ${count(urls.length, 'replica')}: ` +
      `writes go on while ${majority(urls.length)} of them live.`,
  )
}
