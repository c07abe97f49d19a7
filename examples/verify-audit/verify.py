#!/usr/bin/env python3
"""Checks a Standin audit log by nothing but audit/FORMAT.md and the standard library.

usage: verify.py DIR [KEYS [RECEIPT...]]    KEYS: a line "STREAM HEX" each, from "standin audit verify --print-keys"
"""
import collections, hashlib, hmac, json, pathlib, re, sys

LINE = re.compile(rb'(\{"seq":([1-9][0-9]{0,18}),[ -~]*),"h":"([0-9a-f]{64})","mac":"([0-9a-f]{64})"\}\n')
NAME = re.compile(r'((\d{6,})-[a-z2-7]{8})-(\d{6,})\.jsonl')
mac = lambda key, text: hmac.new(key, text, hashlib.sha256).digest()
class Tampered(Exception): pass

def must(holds, what):
    if not holds: raise Tampered(what)

def first(path):  # of a file: its first record, None if it has no whole line
    with open(path, 'rb') as f: text = f.readline()
    if not text.endswith(b'\n'): return None
    must(LINE.fullmatch(text), f'{path.name}: malformed first record')
    return json.loads(text)

def walk(id, files, key, facts):  # facts: seq -> [(h, may have been given up, nothing may follow)]
    heads = {n: first(p) for n, p in sorted(files.items())}
    must(1 in heads, f'{id}: segment 1 is missing')
    seq, h, kind, given_up, torn, lost, n = 1, bytes(32), None, set(), False, 0, 1
    while n:
        nexts = [m for m, head in heads.items() if m > n and head and head.get('after', {}).get('segment') == n]
        nxt = max(nexts, default=None)
        loose = [m for m in heads if n < m < (nxt or 1e9)]
        must(all(not heads[m] or m in nexts for m in loose), f'{id}: the segment after {n} is missing')
        stop = heads[nxt]['seq'] if nxt else None
        with open(files[n], 'rb') as f:
            while seq != stop and (text := f.readline()):
                if not nxt and kind != 'seal' and not text.endswith(b'\n'): torn = True; break
                m = LINE.fullmatch(text)
                must(m and int(m[2]) == seq and kind != 'seal', f'{id}: record {seq} is malformed, missing or behind the seal')
                h = hashlib.sha256(h + m[1]).digest()
                must(h.hex() == m[3].decode(), f'{id}: record {seq} does not follow')
                if key: must(mac(key, h).hex() == m[4].decode(), f'{id}: record {seq} has a wrong MAC'); key = mac(key, b'standin audit next key')
                for want, soft, _ in facts.get(seq, []): must(want == h.hex() or soft and seq in given_up, f'{id}: record {seq} was replaced')
                seq, kind = seq + 1, json.loads(text)['type']
            rest = len(f.read())
        if nxt:
            head = heads[nxt]; a = head['after']
            must(seq == stop and (a['seq'], a['h'], head['segment'], head['stream'], head['type']) == (seq-1, h.hex(), nxt, id, 'segment'), f'{id}: segment {nxt} does not follow')
            must(not rest or head['ended'] == 'failed', f'{id}: bytes behind the end of segment {n}')
            if head['ended'] == 'failed': given_up |= set(range(seq, seq + head['given_up'])); lost += rest
        must(nxt or not loose or kind != 'seal', f'{id}: a segment behind the seal')
        lost, torn, n = lost + (len(loose) if nxt else 0), torn or bool(not nxt and loose), nxt
    for at, known in facts.items():
        for _, soft, final in known: must(not (final and at < seq-1) and (at < seq or soft and at in given_up), f'{id}: cut off, or longer than it was: record {at}')
    return seq-1, kind == 'seal', torn or seq == 1, lost

def verify(dir, keys, receipts):
    files, numbers = collections.defaultdict(dict), {}
    for p in pathlib.Path(dir).iterdir():
        if m := NAME.fullmatch(p.name): files[m[1]][int(m[3])] = p; numbers[m[1]] = int(m[2])
    order = sorted(files, key=numbers.get)
    heads = {id: first(files[id][1]) if 1 in files[id] else None for id in order}
    must(len(set(numbers.values())) == len(order), 'two streams have one number')
    ends = {t['stream']: t for o in heads.values() if o for t in o.get('retired', [])}
    def outlived(t, final):  # what is known of a retired stream must fit the end that it was retired with
        end = ends.get(t['stream'], t)
        must((t['seq'], t['h']) == (end['seq'], end['h']) or t['seq'] < end['seq'] and not final, f"{t['stream']}: was retired with another end")
    gone = set(ends)
    gone |= {id for id in order for o in order if heads[o] and 'archive' in heads[o] and numbers[id] < numbers[o]}
    writes = [o['vault_writes'] for id, o in heads.items() if o and id not in gone and 'vault_writes' in o]
    must(writes == sorted(writes), 'a stream was opened with an older vault')
    facts, anchored, said = collections.defaultdict(lambda: collections.defaultdict(list)), collections.Counter(), {}
    for id, o in heads.items():
        if not o or id in gone: continue
        must(o['type'] == 'stream' and o['stream'] == id, f'{id}: not its opening record')
        tips = [(t, 0, 0) for t in [o.get('follows')] if t] + [(t, 0, 1) for t in o.get('ended', [])] + [(t, 1, 0) for t in o.get('running', [])]
        said[id] = {t['stream']: t['seq'] for t, _, _ in tips} | {t['stream']: t['seq'] for t, _, final in tips if final}
        must(said[id] or numbers[id] == 1 or 'archive' in o, f'{id}: names no stream before it')
        for t, soft, final in tips:
            must(t['stream'] in files or t['stream'] in gone, f"{t['stream']}: is missing")
            if not soft: outlived(t, final)
            if t['seq'] or final: facts[t['stream']][t['seq']].append((t['h'], soft, final))
        for before in reversed([b for b in order if numbers[b] < numbers[id] and b not in gone and 'archive' not in o]):
            must(before in said[id], f'{before}: was not there when {id} was opened')
            if heads[before]: break
        if (a := o.get('archive', {})).get('files') and (moved := pathlib.Path(dir, a['directory'])).is_dir():
            there = {p.name: p for b in order if numbers[b] < numbers[id] for p in files[b].values()} | {p.name: p for p in moved.iterdir() if NAME.fullmatch(p.name)}
            sums = [f"{n} {hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() and not p.is_symlink() else '-'}\n" for n, p in sorted(there.items())]
            must(hashlib.sha256(''.join(sums).encode()).hexdigest() == a['files'], f'{moved.name}: is not what it was')
    for a in receipts:
        must(a['stream'] in files or a['stream'] in gone, f"{a['stream']}: is missing"); outlived(a, 0); facts[a['stream']][a['seq']].append((a['h'], 0, 0))
        anchored[a['stream']] = max(anchored[a['stream']], a['seq'])
    found = {id: walk(id, files[id], keys.get(id), facts[id]) for id in order if id not in gone}
    for id in reversed(order):
        if anchored[id]:
            for stream, seq in said.get(id, {}).items(): anchored[stream] = max(anchored[stream], seq)
    if not keys: return 11
    if any(torn for _, _, torn, _ in found.values()): return 13
    return 0 if found and not gone and all(sealed and not lost and anchored[id] >= n for id, (n, sealed, _, lost) in found.items()) else 12

if __name__ == '__main__':
    try:
        keys = dict(line.split() for line in open(sys.argv[2])) if len(sys.argv) > 2 else {}
        receipts = [json.load(open(f)) for f in sys.argv[3:]]
        code = verify(sys.argv[1], {id: bytes.fromhex(k) for id, k in keys.items()}, [r.get('anchor', r) for r in receipts])
    except (Tampered, ValueError, KeyError, TypeError) as problem: print('tampered:', problem); code = 10
    print('verdict', code); sys.exit(code)
