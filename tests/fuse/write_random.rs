//! Random input and output against a plain copy.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::writable::{each, large};

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn random_steps_give_what_they_give_on_a_plain_file() {
    for seed in 1..=3_u64 {
        each(|_, mount| {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let path = mount.join("large");
            let mut model = large();
            let open = |write| {
                let mut options = OpenOptions::new();
                options.read(true).write(write).open(&path).unwrap()
            };
            let mut readers: Vec<File> = Vec::new();
            let mut writer: Option<File> = None;
            for step in 0..600 {
                let at = random.below(1 << 20);
                match random.below(12) {
                    0..=3 => {
                        let file = writer.get_or_insert_with(|| open(true));
                        let bytes = vec![step as u8; 1 + random.below(40_000) as usize];
                        file.write_all_at(&bytes, at).unwrap();
                        let end = at as usize + bytes.len();
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&bytes);
                    }
                    4 => {
                        nix::unistd::truncate(&path, at as i64).unwrap();
                        model.resize(at as usize, 0);
                    }
                    5 => {
                        let file = writer.get_or_insert_with(|| open(true));
                        file.set_len(at).unwrap();
                        model.resize(at as usize, 0);
                    }
                    6 => writer = None,
                    7 => readers.push(open(false)),
                    8 => readers.truncate(random.below(3) as usize),
                    9 => fs::write("/proc/sys/vm/drop_caches", "1").unwrap(),
                    _ => {
                        let mut read = vec![0; random.below(60_000) as usize];
                        let length = open(false).read_at(&mut read, at).unwrap();
                        let from = (at as usize).min(model.len());
                        let expected = &model[from..(from + read.len()).min(model.len())];
                        assert!(read[..length] == *expected, "seed {seed}, step {step}");
                    }
                }
                let size = fs::metadata(&path).unwrap().len();
                assert_eq!(size, model.len() as u64, "seed {seed}, step {step}");
            }
            assert!(fs::read(&path).unwrap() == model, "seed {seed}");
        });
    }
}
