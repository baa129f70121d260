/**
 * A disk whose power can be cut: ext4 on a loop device over a file. The file holds what reached the block device;
 * what is only in the page cache of the mounted file system is not in it. So a copy of the file is the disk after a
 * power cut. It is a little kinder than the worst disk: what was written to the device but not flushed is in the
 * copy too, so a missing flush (not a missing write) would go unnoticed.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const sh = (text: string, ...args: string[]): string =>
  execFileSync('sh', ['-c', text, 'sh', ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim()
const CLEANUP =
  'cat >/dev/null; sleep 1; for m in "$1"/mnt*; do umount "$m" 2>/dev/null || { sleep 5; umount -l "$m"; }; done; rm -rf "$1"'

/**
 * Why this machine cannot do it, or nothing. Tries it, as permissions of containers cannot be told from uid and
 * capabilities.
 */
export function impossible(): string | undefined {
  if (process.platform !== 'linux') return `loop devices are Linux's, this is ${process.platform}`
  if (process.getuid?.() !== 0) return 'mounting needs root'
  let disks: Disks | undefined
  try {
    disks = new Disks()
    const disk = disks.disk(0, 16)
    disk.cut()
    return undefined
  } catch (error) {
    return `a loop device with ext4 cannot be made or mounted here: ${String(
      (error as { stderr?: string }).stderr || (error as Error).message,
    )
      .trim()
      .replaceAll('\n', ' ')}`
  } finally {
    disks?.remove()
  }
}

export class Disk {
  readonly path: string
  readonly #image: string
  #device = ''
  #cuts = 0

  constructor(dir: string, index: number, megabytes: number) {
    this.path = join(dir, `mnt${index}`)
    this.#image = join(dir, `disk${index}.img`)
    mkdirSync(this.path)
    sh(
      'truncate -s "$2" "$1" && mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$1"',
      this.#image,
      `${megabytes}M`,
    )
    this.#mount()
  }

  #mount(): void {
    sh('mount -o loop "$1" "$2" && chmod 755 "$2"', this.#image, this.path)
    this.#device = sh('findmnt -no SOURCE "$1"', this.path).replace('/dev/', '')
  }

  /** What the device has been asked to write, and what is still on its way. */
  #written(): string {
    const stat = readFileSync(`/sys/block/${this.#device}/stat`, 'utf8').trim().split(/\s+/)
    return `${stat[4]} ${stat[6]} ${stat[8]}`
  }

  /** Everything so far reaches the device: for a base that a cut does not take away. */
  sync(): void {
    sh('sync -f "$1"', this.path)
  }

  /** Before a cut: one file that was flushed, and one that was not. */
  mark(): void {
    this.#cuts++
    const file = openSync(join(this.path, `flushed${this.#cuts}`), 'w')
    writeSync(file, 'x')
    fsyncSync(file)
    closeSync(file)
    const dir = openSync(this.path, 'r')
    fsyncSync(dir)
    closeSync(dir)
    writeFileSync(join(this.path, `unflushed${this.#cuts}`), 'x'.repeat(1000))
  }

  /** After the cut: 'exact' if the first is there and the second is not. */
  marks(): string {
    const held = (name: string): boolean =>
      existsSync(join(this.path, name)) && readFileSync(join(this.path, name), 'utf8').includes('x')
    return held(`flushed${this.#cuts}`)
      ? held(`unflushed${this.#cuts}`)
        ? 'nothing was lost'
        : 'exact'
      : 'what was flushed is lost'
  }

  /**
   * The image as it is at one instant. Processes that are stopped write nothing, but the kernel's write-back goes
   * on by itself: a copy during which the device was written is thrown away. Returns how often that was.
   */
  snapshot(): number {
    for (let again = 0; again < 100; again++) {
      const before = this.#written()
      sh('cp --sparse=always "$1" "$1.copy"', this.#image)
      if (before === this.#written() && before.endsWith(' 0')) return again
    }
    throw new Error('the device never stood still for the time of a copy')
  }

  /** The power is gone: what was mounted is forgotten, and the copy is the disk. No process may use it any more. */
  restore(): void {
    sh('umount "$1" && mv "$2.copy" "$2"', this.path, this.#image)
    this.#mount()
  }

  cut(): void {
    this.snapshot()
    this.restore()
  }
}

export class Disks {
  readonly #dir = mkdtempSync(join(tmpdir(), 'pg-quorum-power-'))
  readonly #watcher: ChildProcess

  constructor() {
    sh('chmod 755 "$1"', this.#dir)
    // As with the servers: nothing may stay mounted, however this process ends.
    this.#watcher = spawn('sh', ['-c', CLEANUP, 'sh', this.#dir], {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    this.#watcher.on('error', () => undefined)
    this.#watcher.unref()
    ;(this.#watcher.stdin as unknown as { unref(): void }).unref()
  }

  disk(index: number, megabytes: number): Disk {
    return new Disk(this.#dir, index, megabytes)
  }

  /** After the servers have been destroyed. */
  remove(): void {
    try {
      sh('for m in "$1"/mnt*; do ! mountpoint -q "$m" || umount "$m"; done; rm -rf "$1"', this.#dir)
    } finally {
      this.#watcher.stdin?.end()
    }
  }
}

/** Makes the temporary folder of whoever asks during `work` this disk: so the embedded server puts its data there. */
export function onDisk<T>(disk: Disk, work: () => T): T {
  const before = process.env['TMPDIR']
  process.env['TMPDIR'] = disk.path
  try {
    return work()
  } finally {
    if (before === undefined) delete process.env['TMPDIR']
    else process.env['TMPDIR'] = before
  }
}
