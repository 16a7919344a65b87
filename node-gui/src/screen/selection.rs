//! Core: what the keyboard highlights, among the tiles and the buttons of one screen.
//!
//! Arrows move among the tiles, from the last row down into the buttons and up again; Tab goes round everything.
//! Hovering with the pointer moves the same highlight, so that keys and pointer never disagree.

/// A key that means something to the picker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the key of that name")]
pub enum Key {
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    Tab,
    BackTab,
    Enter,
    Escape,
    Other,
}

/// What is highlighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    /// The tile with this index.
    Tile(usize),
    /// The button with this index.
    Button(usize),
    /// Nothing: the screen has neither.
    Nothing,
}

/// What a key press asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    /// Only the highlight moved, or nothing happened.
    Moved,
    /// Enter on this.
    Activate(Focus),
    /// The Escape key.
    Escape,
}

/// The highlight on one screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    tiles: usize,
    columns: usize,
    buttons: usize,
    /// The tile that is highlighted, or was before a button was.
    tile: usize,
    focus: Focus,
}

/// Rows that PageUp and PageDown move.
const PAGE_ROWS: usize = 3;

impl Selection {
    /// The highlight of a screen with this many tiles, columns and buttons.
    ///
    /// It begins at tile `first`, or at the first button where there are no tiles.
    #[must_use]
    pub fn new(tiles: usize, columns: usize, buttons: usize, first: usize) -> Self {
        let tile = first.min(tiles.saturating_sub(1));
        let focus = match (tiles, buttons) {
            (0, 0) => Focus::Nothing,
            (0, _) => Focus::Button(0),
            _ => Focus::Tile(tile),
        };
        Self { tiles, columns: columns.max(1), buttons, tile, focus }
    }

    /// The highlight of a screen whose buttons wait for a deliberate key: nothing, until one moves there.
    #[must_use]
    pub fn resting(buttons: usize) -> Self {
        Self { focus: Focus::Nothing, ..Self::new(0, 1, buttons, 0) }
    }

    /// What is highlighted.
    #[must_use]
    pub fn focus(&self) -> Focus {
        self.focus
    }

    /// The tile that is highlighted, or was before a button was.
    #[must_use]
    pub fn tile(&self) -> Option<usize> {
        (self.tiles > 0).then_some(self.tile)
    }

    /// The pointer is over this; an index out of range changes nothing.
    pub fn hover(&mut self, focus: Focus) {
        match focus {
            Focus::Tile(index) if index < self.tiles => self.select_tile(index),
            Focus::Button(index) if index < self.buttons => self.focus = focus,
            _ => {}
        }
    }

    /// One key.
    pub fn press(&mut self, key: Key) -> Press {
        match (key, self.focus) {
            (Key::Enter, Focus::Nothing) | (Key::Other, _) => {}
            (Key::Enter, focus) => return Press::Activate(focus),
            (Key::Escape, _) => return Press::Escape,
            (Key::Tab, _) => self.cycle(1),
            (Key::BackTab, _) => self.cycle(-1),
            (key, Focus::Tile(index)) => self.move_tile(key, index),
            (key, Focus::Button(index)) => self.move_button(key, index),
            (_, Focus::Nothing) => self.enter_buttons(),
        }
        Press::Moved
    }

    fn move_tile(&mut self, key: Key, index: usize) {
        let last = self.tiles - 1;
        let last_row = last / self.columns;
        let row = index / self.columns;
        match key {
            Key::Left => self.select_tile(index.saturating_sub(1)),
            Key::Right => self.select_tile(index + 1),
            Key::Home => self.select_tile(0),
            Key::End => self.select_tile(last),
            Key::Up => self.move_rows(index, -1),
            Key::Down if row == last_row => self.enter_buttons(),
            Key::Down => self.move_rows(index, 1),
            Key::PageUp => self.move_rows(index, -(PAGE_ROWS as isize)),
            Key::PageDown => self.move_rows(index, PAGE_ROWS as isize),
            _ => {}
        }
    }

    /// Moves by rows within the column; the last row may be shorter.
    fn move_rows(&mut self, index: usize, by: isize) {
        let last_row = (self.tiles - 1) / self.columns;
        let row = (index / self.columns).saturating_add_signed(by).min(last_row);
        self.select_tile(row * self.columns + index % self.columns);
    }

    fn move_button(&mut self, key: Key, index: usize) {
        match key {
            Key::Left => self.focus = Focus::Button(index.saturating_sub(1)),
            Key::Right => self.focus = Focus::Button((index + 1).min(self.buttons - 1)),
            Key::Home => self.focus = Focus::Button(0),
            Key::End => self.focus = Focus::Button(self.buttons - 1),
            Key::Up | Key::PageUp if self.tiles > 0 => self.focus = Focus::Tile(self.tile),
            _ => {}
        }
    }

    fn select_tile(&mut self, index: usize) {
        self.tile = index.min(self.tiles - 1);
        self.focus = Focus::Tile(self.tile);
    }

    fn enter_buttons(&mut self) {
        if self.buttons > 0 {
            self.focus = Focus::Button(0);
        }
    }

    /// Tab: the tiles as one stop, then each button, then the tiles again.
    fn cycle(&mut self, by: isize) {
        let before = usize::from(self.tiles > 0);
        let stops = before + self.buttons;
        let stop = match self.focus {
            Focus::Nothing => return self.enter_buttons(),
            Focus::Tile(_) => 0,
            Focus::Button(index) => before + index,
        };
        let stop = (stop + stops).saturating_add_signed(by) % stops;
        self.focus = match stop.checked_sub(before) {
            Some(index) => Focus::Button(index),
            None => Focus::Tile(self.tile),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Presses the keys, and checks what is highlighted afterwards.
    fn check(mut selection: Selection, keys: &[Key], expected: Focus) {
        for key in keys {
            selection.press(*key);
        }
        assert_eq!(selection.focus(), expected, "after {keys:?}");
    }

    #[test]
    fn arrows_move_in_the_grid_and_stop_at_its_edges() {
        let eight = Selection::new(8, 3, 2, 0);
        check(eight, &[Key::Right, Key::Right, Key::Down], Focus::Tile(5));
        check(eight, &[Key::Left, Key::Up], Focus::Tile(0));
        check(eight, &[Key::End, Key::Right], Focus::Tile(7));
        check(eight, &[Key::PageDown, Key::PageUp], Focus::Tile(0));
    }

    #[test]
    fn down_into_a_shorter_last_row_takes_its_last_tile() {
        check(Selection::new(7, 3, 2, 5), &[Key::Down], Focus::Tile(6));
    }

    #[test]
    fn down_from_the_last_row_reaches_the_buttons_and_up_returns() {
        let two = Selection::new(2, 2, 2, 1);
        check(two, &[Key::Down, Key::Right], Focus::Button(1));
        check(two, &[Key::Down, Key::Up], Focus::Tile(1));
    }

    #[test]
    fn tab_goes_round_everything_in_both_directions() {
        let menu = Selection::new(4, 2, 2, 2);
        check(menu, &[Key::Tab], Focus::Button(0));
        check(menu, &[Key::Tab, Key::Tab, Key::Tab], Focus::Tile(2));
        check(menu, &[Key::BackTab], Focus::Button(1));
    }

    #[test]
    fn a_screen_without_tiles_begins_at_its_first_button() {
        check(Selection::new(0, 1, 3, 0), &[], Focus::Button(0));
        check(Selection::new(0, 1, 0, 0), &[Key::Tab, Key::Down], Focus::Nothing);
    }

    #[test]
    fn a_resting_screen_ignores_enter_until_a_key_moved_to_a_button() {
        let mut resting = Selection::resting(1);
        assert_eq!(resting.press(Key::Enter), Press::Moved);
        check(resting, &[Key::Tab], Focus::Button(0));
        check(resting, &[Key::Left], Focus::Button(0));
    }

    #[test]
    fn enter_activates_what_is_highlighted() {
        let mut menu = Selection::new(3, 3, 2, 1);
        assert_eq!(menu.press(Key::Enter), Press::Activate(Focus::Tile(1)));
        menu.hover(Focus::Button(1));
        assert_eq!(menu.press(Key::Enter), Press::Activate(Focus::Button(1)));
        assert_eq!(menu.press(Key::Escape), Press::Escape);
    }

    #[test]
    fn hovering_outside_the_screen_changes_nothing() {
        let mut menu = Selection::new(3, 3, 2, 1);
        menu.hover(Focus::Tile(3));
        menu.hover(Focus::Button(2));
        assert_eq!(menu.focus(), Focus::Tile(1));
    }

    fn any_key() -> impl Strategy<Value = Key> {
        use Key::*;
        let keys =
            [Up, Down, Left, Right, Home, End, PageUp, PageDown, Tab, BackTab, Enter, Escape];
        proptest::sample::select(keys.to_vec())
    }

    proptest! {
        #[test]
        fn no_keys_leave_the_screen(
            tiles in 0_usize..20,
            columns in 0_usize..5,
            buttons in 0_usize..5,
            first in 0_usize..30,
            keys in proptest::collection::vec(any_key(), 0..40),
        ) {
            let mut selection = Selection::new(tiles, columns, buttons, first);
            for key in keys {
                selection.press(key);
                match selection.focus() {
                    Focus::Tile(index) => prop_assert!(index < tiles),
                    Focus::Button(index) => prop_assert!(index < buttons),
                    Focus::Nothing => prop_assert_eq!(tiles + buttons, 0),
                }
            }
        }
    }
}
