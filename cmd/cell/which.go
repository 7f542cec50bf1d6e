package main

import (
	"context"
	"slices"
	"strings"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
)

// which tells whether a cell, written name@author, is the one that a person
// named. A bare name is that of any author's cell, and "" that of all.
func (a *app) which(text string) (func(cell string) bool, error) {
	if text == "" {
		return func(string) bool { return true }, nil
	}
	ref, err := identity.ParseRef(text)
	if err != nil {
		return nil, err
	}
	if ref.Author == "" {
		return func(cell string) bool { return bareName(cell) == string(ref.Name) }, nil
	}
	_, s, err := a.load()
	if err != nil {
		return nil, err
	}
	want, err := ref.Resolve(identity.Key{}, s.Authors)
	if err != nil {
		return nil, err
	}
	return func(cell string) bool { return cell == want.String() }, nil
}

// cells asks the node for its cells and keeps those that are meant, in order.
func cells(ctx context.Context, client *node.Client, meant func(cell string) bool) ([]node.CellStatus, error) {
	all, err := client.Cells(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c node.CellStatus) bool { return !meant(c.Cell) })
	slices.SortFunc(all, func(x, y node.CellStatus) int { return strings.Compare(x.Cell, y.Cell) })
	return all, nil
}

// unknownCell is the error of a cell that the node knows nothing of.
func unknownCell(text string) error {
	return node.NewError(node.CodeNoCell, "nothing is known here of "+clean(text), "see the cells that are: cell top; find others: cell lookup NAME")
}
