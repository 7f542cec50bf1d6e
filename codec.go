package cell

import (
	"encoding/json"
	"fmt"
	"reflect"

	"cell.network/cell/internal/frame"
	"github.com/fxamacker/cbor/v2"
)

var encoding = func() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.Time = cbor.TimeRFC3339Nano
	m, err := o.EncMode()
	if err != nil {
		panic(err)
	}
	return m
}()

var decoding = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:      cbor.DupMapKeyEnforcedAPF,
		DefaultMapType: reflect.TypeFor[map[string]any](),
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// encode writes v as codec says; a []byte stays as it is.
func encode(codec frame.Codec, v any) (frame.Codec, []byte, error) {
	if b, ok := v.([]byte); ok {
		return frame.Raw, b, nil
	}
	var b []byte
	var err error
	switch codec {
	case frame.JSON:
		b, err = json.Marshal(v)
	default:
		codec = frame.CBOR
		b, err = encoding.Marshal(v)
	}
	return codec, b, err
}

// decode reads b into v; into a *[]byte as it is. No bytes leave v as it is.
func decode(codec frame.Codec, b []byte, v any) error {
	if p, ok := v.(*[]byte); ok {
		*p = b
		return nil
	}
	switch {
	case len(b) == 0:
		return nil
	case codec == frame.CBOR:
		return decoding.Unmarshal(b, v)
	case codec == frame.JSON:
		return json.Unmarshal(b, v)
	}
	return fmt.Errorf("want CBOR or JSON, not %v", codec)
}
