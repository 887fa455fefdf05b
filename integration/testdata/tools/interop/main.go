// Interop is gRPC's interoperability test through a proxy that serves it
// below a path, which gRPC's own client cannot be told.
//
//	interop serve                  serves the test service, and prints its address
//	interop test ADDR PATH ROUNDS  runs all test cases that need no credentials
//	interop call ADDR PATH         makes one call, and prints its status
//	interop list ADDR              lists the services by server reflection, as grpcurl does
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch os.Args[1] {
	case "serve":
		serve()
	case "test":
		rounds, err := strconv.Atoi(os.Args[4])
		if err != nil {
			log.Fatal(err)
		}
		test(ctx, dial(os.Args[2], os.Args[3]), rounds)
	case "call":
		_, err := pb.NewTestServiceClient(dial(os.Args[2], os.Args[3])).EmptyCall(ctx, &pb.Empty{})
		fmt.Println(status.Code(err), status.Convert(err).Message())
	case "list":
		list(ctx, dial(os.Args[2], ""))
	}
}

// list prints the services that a server has.
func list(ctx context.Context, conn *grpc.ClientConn) {
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		log.Fatal(err)
	}
	ask := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(ask); err != nil {
		log.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		log.Fatal(err)
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		fmt.Println(service.GetName())
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); err != io.EOF {
		log.Fatal(err)
	}
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterTestServiceServer(server, interop.NewTestServer())
	reflection.Register(server)
	fmt.Println(listener.Addr())
	log.Fatal(server.Serve(listener))
}

// dial returns a connection whose calls all go below path.
func dial(addr, path string) *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(ctx, path+method, req, reply, conn, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(ctx, desc, conn, path+method, opts...)
		}))
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

// test ends the process where a case fails, as the cases themselves do.
func test(ctx context.Context, conn *grpc.ClientConn, rounds int) {
	client := pb.NewTestServiceClient(conn)
	of := func(f func(context.Context, pb.TestServiceClient, ...grpc.CallOption)) func() {
		return func() { f(ctx, client) }
	}
	unimplemented := func() { interop.DoUnimplementedMethod(ctx, conn) }
	cases := []struct {
		name string
		run  func()
	}{
		{"empty_unary", of(interop.DoEmptyUnaryCall)},
		{"large_unary", of(interop.DoLargeUnaryCall)},
		{"client_streaming", of(interop.DoClientStreaming)},
		{"server_streaming", of(interop.DoServerStreaming)},
		{"ping_pong", of(interop.DoPingPong)},
		{"empty_stream", of(interop.DoEmptyStream)},
		{"timeout_on_sleeping_server", of(interop.DoTimeoutOnSleepingServer)},
		{"cancel_after_begin", of(interop.DoCancelAfterBegin)},
		{"cancel_after_first_response", of(interop.DoCancelAfterFirstResponse)},
		{"status_code_and_message", of(interop.DoStatusCodeAndMessage)},
		{"special_status_message", of(interop.DoSpecialStatusMessage)},
		{"custom_metadata", of(interop.DoCustomMetadata)},
		{"unimplemented_method", unimplemented},
		{"unimplemented_service", func() { interop.DoUnimplementedService(ctx, pb.NewUnimplementedServiceClient(conn)) }},
	}
	for range rounds {
		for _, c := range cases {
			fmt.Print(c.name)
			c.run()
			fmt.Println(": ok")
		}
	}
	// A status without a message is easily lost: its header is its trailer.
	var calling sync.WaitGroup
	for range 8 {
		calling.Go(func() {
			for range 50 {
				unimplemented()
			}
		})
	}
	calling.Wait()
	fmt.Println("400 statuses without a message: ok")
}
