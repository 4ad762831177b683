//! How a pull is shown: bars on a terminal, a line for each change elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::image::{Event, LayerState};
use crate::oci::{Descriptor, Digest};

/// Shows the layers of one image.
pub struct Display {
    quiet: bool,
    /// Bars are drawn on a terminal only.
    bars: Option<MultiProgress>,
    layers: Mutex<HashMap<Digest, Layer>>,
}

struct Layer {
    bar: Option<ProgressBar>,
    shown: &'static str,
}

impl Display {
    /// A display that shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Display {
        let bars = (!quiet && std::io::stderr().is_terminal() && std::io::stdout().is_terminal())
            .then(MultiProgress::new);
        Display {
            quiet,
            bars,
            layers: Mutex::default(),
        }
    }

    /// Prints a line above the layers.
    pub fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        let printed = match &self.bars {
            Some(bars) => bars.println(text),
            None => writeln!(std::io::stdout(), "{text}"),
        };
        // Progress is a courtesy: a pull does not fail because nobody watches.
        if let Err(error) = printed {
            log::debug!("showing progress: {error}");
        }
    }

    /// Shows the layers that are to come.
    pub fn start(&self, layers: &[Descriptor]) {
        let mut shown = self.lock();
        for layer in layers {
            if shown.contains_key(&layer.digest) {
                continue;
            }
            let bar = self.bars.as_ref().map(|bars| {
                let bar = bars.add(ProgressBar::new(layer.size));
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_prefix(layer.digest.short());
                bar.set_message("Waiting");
                bar
            });
            shown.insert(layer.digest, Layer { bar, shown: "" });
        }
    }

    /// Shows a change.
    pub fn event(&self, event: &Event<'_>) {
        let mut layers = self.lock();
        let Some(layer) = layers.get_mut(&event.layer.digest) else {
            return;
        };
        let text = match event.state {
            LayerState::Waiting => "Waiting for another process",
            LayerState::Resuming { .. } => "Resuming",
            LayerState::Receiving { .. } => "Downloading",
            LayerState::Storing => "Storing",
            LayerState::Complete => "Pull complete",
            LayerState::AlreadyExists => "Already exists",
        };
        let changed = layer.shown != text;
        layer.shown = text;
        let Some(bar) = &layer.bar else {
            drop(layers);
            if changed {
                self.line(&format!("{}: {text}", event.layer.digest.short()));
            }
            return;
        };
        match event.state {
            LayerState::Receiving { done } | LayerState::Resuming { from: done } => {
                if changed {
                    bar.set_style(style("{prefix}: {msg} [{wide_bar}] {bytes}/{total_bytes}"));
                    bar.set_message(text);
                }
                bar.set_position(done);
            }
            LayerState::Complete | LayerState::AlreadyExists => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.finish_with_message(text);
            }
            _ => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_message(text);
            }
        }
    }

    /// Leaves the bars as they are.
    pub fn finish(&self) {
        for layer in self.lock().values() {
            if let Some(bar) = &layer.bar
                && !bar.is_finished()
            {
                bar.abandon();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Layer>> {
        self.layers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Shows one thing that is read; nothing where nobody watches.
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar of `size` bytes, or a count where the size is not known.
    pub fn new(what: &'static str, size: Option<u64>) -> Bar {
        if !std::io::stderr().is_terminal() {
            return Bar(None);
        }
        let bar = match size {
            Some(size) => {
                ProgressBar::new(size).with_style(style("{msg} [{wide_bar}] {bytes}/{total_bytes}"))
            }
            None => ProgressBar::no_length().with_style(style("{msg} {bytes}")),
        };
        Bar(Some(bar.with_message(what)))
    }

    /// So many bytes were read.
    pub fn set(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows how much is written.
pub struct Counted<'a> {
    out: &'a mut dyn Write,
    bar: &'a Bar,
    count: u64,
}

impl<'a> Counted<'a> {
    /// Writes to `out` and tells `bar`.
    pub fn new(out: &'a mut dyn Write, bar: &'a Bar) -> Counted<'a> {
        let count = 0;
        Counted { out, bar, count }
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        self.bar.set(self.count);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
