//! Names for PEFT's `target_modules`, and the kinds of modules that a list of paths is of.

use std::collections::BTreeSet;

use crate::naming::groups::layer_groups;

/// Names for `target_modules` that select the merged modules among all linear layers of the base
/// model, sorted: for each the shortest end of its name (`query`, `attention.output.dense`) that
/// selects no layer outside the merge, or its full name where there is none.
///
/// PEFT selects a module whose name is a target or ends in `.` and a target.
pub fn suffix_targets(merged: &[&str], all_linear: &[&str]) -> Vec<String> {
    let merged_set: BTreeSet<&str> = merged.iter().copied().collect();
    let others: Vec<&str> = all_linear
        .iter()
        .copied()
        .filter(|module| !merged_set.contains(module))
        .collect();
    let mut targets: BTreeSet<&str> = BTreeSet::new();
    for &module in &merged_set {
        let target = suffixes(module)
            .find(|suffix| !others.iter().any(|other| selects(suffix, other)))
            .unwrap_or(module);
        targets.insert(target);
    }
    targets.into_iter().map(str::to_owned).collect()
}

/// Whether PEFT takes `target` to name `module`.
fn selects(target: &str, module: &str) -> bool {
    module
        .strip_suffix(target)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The ends of a name, shortest first, that start at a part and hold no layer's number: with a number
/// an end names one layer, for which the full name is plainer.
fn suffixes(module: &str) -> impl Iterator<Item = &str> {
    module
        .rmatch_indices('.')
        .map(|(at, _)| &module[at + 1..])
        .take_while(|suffix| !suffix.split('.').any(is_number))
}

/// The kinds of modules among these names: the endings of their [groups](layer_groups), each as short as it can be
/// told from the other kinds, sorted.
pub fn kinds(modules: &[&str]) -> Vec<String> {
    let groups = layer_groups(modules);
    let endings: BTreeSet<&str> = groups.iter().map(|group| group.ending.as_str()).collect();
    let endings: Vec<&str> = endings.into_iter().collect();
    let kinds: BTreeSet<String> = endings
        .iter()
        .flat_map(|kind| suffix_targets(&[kind], &endings))
        .collect();
    kinds.into_iter().collect()
}

/// Whether a part of a path is a number.
fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}
