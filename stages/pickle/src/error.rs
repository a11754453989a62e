/// Why a pickle was not read.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// More than the rules allow.
    #[error("the pickle has more than {limit} {what}")]
    Limit {
        /// What there are too many of: `bytes`, `opcodes`.
        what: &'static str,
        /// How many there are, as far as they were counted.
        value: u64,
        /// How many the rules allow.
        limit: u64,
    },
    /// Opcodes that do not add up.
    #[error("pickle, byte {offset}: {problem}")]
    Damaged {
        /// The byte of the pickle at which reading stopped.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// It asks for more than the rules allow: it may be an attack and is never run.
    #[error("pickle, byte {offset}: opcode {opcode}{object} is refused: only {only}")]
    Refused {
        /// The byte of the pickle at which the opcode lies.
        offset: u64,
        /// The opcode, by its name in `pickletools.py`.
        opcode: &'static str,
        /// ` (os.system)` for opcodes that name a Python object.
        object: String,
        /// What would be read, in the words of [`Rules::only`](crate::Rules::only).
        only: &'static str,
    },
}
