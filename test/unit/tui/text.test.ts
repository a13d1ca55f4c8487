// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  cleanText,
  cutText,
  padEndCells,
  padStartCells,
  textWidth,
} from '../../../tui/view/text.js';

describe('cleanText', () => {
  test('takes away escape sequences, line ends, and marks that reorder text', () => {
    expect(cleanText('a\u001b[2Jb\r\nc\u0007\u202ed\u009b1m')).toBe('a[2Jb cd1m');
  });

  test('leaves no byte that a terminal obeys, whatever comes in', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(cleanText(text)).not.toMatch(
          /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/,
        );
      }),
    );
  });
});

describe('widths', () => {
  test('count East Asian characters twice and combining marks not at all', () => {
    expect(textWidth('abc')).toBe(3);
    expect(textWidth('日本')).toBe(4);
    expect(textWidth('e\u0301')).toBe(1);
  });

  test('a cut text never exceeds its cells, a padded one fills them exactly', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', maxLength: 40 }),
        fc.integer({ min: 0, max: 30 }),
        (raw, width) => {
          const text = cleanText(raw);
          expect(textWidth(cutText(text, width))).toBeLessThanOrEqual(width);
          expect(textWidth(padEndCells(text, width))).toBe(width);
          expect(textWidth(padStartCells(text, width))).toBe(width);
        },
      ),
    );
  });

  test('a cut says so, an uncut text is left alone', () => {
    expect(cutText('python serve.py', 8)).toBe('python …');
    expect(cutText('short', 8)).toBe('short');
    expect(cutText('日本語', 4)).toBe('日…');
  });

  test('a command line of megabytes costs no more than its first four thousand characters', () => {
    expect(textWidth(cutText('x'.repeat(5_000_000), 20))).toBe(20);
  });
});
