/**
 * `pg-quorum clone`: builds an empty server, or one that is too far behind, from the others. Phases: the schema;
 * the rows, by COPY from one member's snapshot; the changesets since; then it joins. Until then it has no vote
 * (docs/decisions/0005). Clients go on meanwhile.
 */
import { Option, type Command } from 'commander'
import type { Contents } from '../schema/recreate.ts'
import { cloneReplica, type CloneOptions } from './building.ts'
import { meter } from './progress.ts'
import { count, dress, duration, onInterruption, say, sayJson, urlsOf, wholeNumber, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum clone 10.0.0.3:5432
10.0.0.3:5432/app: installed as member 3, under construction
10.0.0.3:5432/app: schema: by pg_dump
10.0.0.3:5432/app [########------------]   43 %  2 of 7 tables, 35 MB/s
10.0.0.3:5432/app: built from 10.0.0.2:5432/app: 1200000 rows in 41 s,
  then 310 changesets; it votes again

Stopped at any point, the same command goes on: an interrupted copy starts
again from its beginning, catch-up and what follows continue. While the copy
runs, DDL and TRUNCATE on the source wait or fail.`

type Given = Common & Pick<CloneOptions, 'wipe' | 'from' | 'pgDump' | 'member'> & { jobs: number; dryRun?: true }

export function addClone(program: Command): void {
  dress(
    program
      .command('clone')
      .description('build an empty replica, or one that is too far behind, from the others')
      .argument('<replica>', 'host:port, or the member number that `status` shows')
      .option('--wipe <host:port>', 'drop all that is on it first; name it again, so that\nit is the right one')
      .option('--dry-run', 'say what would be dropped and done, and do nothing')
      .option('--from <host:port>', 'the replica to copy from; default: the last one that\nis current')
      .option('--jobs <count>', 'tables copied at once', wholeNumber(1, 64), 2)
      .option('--pg-dump <path>', 'the pg_dump for the schema; default: the one in PATH')
      .addOption(
        new Option('--member <number>', 'its number, where others do not answer and it cannot\nbe told').argParser(
          wholeNumber(1, 99),
        ),
      ),
    EXAMPLE,
  ).action(async (which: string, options: Given) => {
    const bar = options.json ? undefined : meter(`clone ${which}`)
    const speak = (line: string): void => {
      bar?.clear()
      if (!options.json) say(line)
    }
    onInterruption(() => {
      bar?.clear()
      process.stderr.write('stopped; the same command goes on\n')
    })
    const { json: _json, replicas, ...rest } = options
    const done = await cloneReplica({
      ...rest,
      urls: urlsOf(replicas ?? []),
      which,
      tell: speak,
      show: (p) =>
        bar?.show(
          'changesets' in p
            ? { done: 1, total: 1, words: `${count(p.changesets, 'changeset')} brought over` }
            : {
                done: p.bytes,
                total: Math.max(p.ofBytes, p.bytes),
                words: `${p.tables} of ${p.ofTables} tables, ${megabytes(p.bytes / Math.max(1, p.ms / 1000))}/s`,
              },
        ),
    })
    bar?.clear()
    if (options.json) return sayJson(done)
    if (!done.dry_run)
      return say(
        `${done.replica}: ${
          done.copy_ms === 0
            ? 'completed'
            : `built from ${done.source}: ${count(done.rows, 'row')} in ${duration(done.copy_ms)}`
        }, then ${count(done.changesets, 'changeset')}; it votes again`,
      )
    say(
      `${done.replica} would be built from ${done.source}. ` +
        `${done.dropped.length > 0 ? 'With --wipe this would be dropped on it first:' : 'Nothing would be dropped.'}`,
    )
    for (const c of done.dropped) say(`  ${wordsOf(c)}`)
    if (done.dropped.length > 0) say('  and what pg-quorum keeps there (schemas quorum, quorum_shadow)')
  })
}

const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MB`
const wordsOf = (c: Contents): string =>
  `schema ${c.schema}: ${count(c.tables.length, 'table')}${
    c.tables.length > 0
      ? ` (${c.tables.slice(0, 20).join(', ')}${c.tables.length > 20 ? ', …' : ''}), ${megabytes(c.bytes)}`
      : ''
  }`
